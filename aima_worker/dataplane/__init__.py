"""The data plane: the one listener of a host in its network, a process that forwards gateways' requests to engines.

It has the public keys of API nodes and a file of the worker's with the addresses of engines: no Redis, no container
engine, no secret but the key of its certificate. It outlives its worker by its open streams.
"""
