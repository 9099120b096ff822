"""Whether a native process could listen on a port, and who has it if not."""

from __future__ import annotations

import errno
import socket

import psutil


def is_free(address: str, port: int) -> bool:
    """Whether nobody listens there. An address that is not this machine's is for the engine to fail on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: what a connection that has just ended still holds is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as refused:
            return refused.errno != errno.EADDRINUSE
    return True


def holder(port: int) -> str:
    """Who listens there, for people: `redis-server (pid 4711)`, as far as this user may know."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            return _described(connection.pid)
    return "another program"


def _described(pid: int | None) -> str:
    if pid is None:
        return "another user's program"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
