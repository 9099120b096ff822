"""Whether a program listens on a port of this machine, and which one, for messages about a port conflict."""

import socket

import psutil


def raise_if_in_use(address: str, port: int) -> None:
    """Raises OSError if a program listens there, or the address is of elsewhere.

    Race: it binds and does not listen, so that workers that check one port at once do not find it in use by each other.
    """
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as check:
        check.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        check.bind((address, port))


def owner_of_port(port: int) -> str | None:
    """`redis-server (pid 4711)`, as far as this user may see; None if it can see nothing that listens."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            pid = connection.pid
            try:
                return f"{psutil.Process(pid).name()} (pid {pid})" if pid is not None else "another user's program"
            except psutil.Error:
                return f"pid {pid}"
    return None
