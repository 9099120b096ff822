"""The in-memory runtime, for tests and simulated fleets."""
