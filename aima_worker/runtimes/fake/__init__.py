"""The in-memory runtime for tests and fleets."""
