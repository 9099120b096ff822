"""Events: fan-out to subscribers, and streams that replay, then follow."""
