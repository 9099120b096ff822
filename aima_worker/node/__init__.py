"""The node: facts, hardware, identity, heartbeat and memory watchdog of this host."""
