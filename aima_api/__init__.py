"""The front door: HTTP, events and the CLI. Runs no engine."""
