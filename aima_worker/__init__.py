"""The worker: runs on each host and executes operations as containers."""
