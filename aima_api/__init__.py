"""The front door: HTTP, events and the CLI, without running an engine."""
