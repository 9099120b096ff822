"""The node: facts, hardware, identity, heartbeat and memory guard of this host."""
