"""The log protocol between worker and API node, de-duplication and sanitizing of log lines."""
