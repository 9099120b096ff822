"""The program that listens on a port of this machine, for messages about a port conflict."""

import psutil


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
