"""The data plane of a host: its only listener, a process that forwards requests of gateways to engines behind loopback."""
