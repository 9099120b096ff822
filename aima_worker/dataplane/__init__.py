"""The data plane: the only listener of a host, a process that forwards requests of gateways to engines on loopback."""
