"""Running on a leased port: the lease says who may have it, the host's own sockets say whether it can be had."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import psutil

from aima_core.domain.ids import InstanceId
from aima_core.errors import NoFreePort, PortTaken
from aima_worker.context import HostContext
from aima_worker.execution.attempt import Attempt
from aima_worker.runtime import Status

QUARANTINE = timedelta(seconds=60)
"""A port that somebody else turned out to use is left alone for this long."""
TRIES = 5


def run_on_leased_port(
    host: HostContext, attempt: Attempt, instance: InstanceId, *, wanted: int | None, run: Callable[[int], None]
) -> int:
    """Lease a port for the instance and run its container on it; move on where somebody else turns out to use it.

    Raises PortTaken for a port that was asked for, NoFreePort, PortOutOfRange, and what `run` raises.
    """
    fence = attempt.operation.fence
    avoid: tuple[int, timedelta] | None = None
    for _ in range(TRIES):
        lease = partial(host.ports.lease, instance, fence=fence, wanted=wanted, avoid=avoid)
        port = attempt.retry_until_redis_answers(lease)
        try:
            _check_free(host, instance, port)
            run(port)
            attempt.retry_until_redis_answers(partial(host.ports.persist, instance, port, fence=fence))
            return port
        except PortTaken as taken:
            if wanted is not None:
                raise
            attempt.report_message(f"{taken} Trying another.")
            avoid = (port, QUARANTINE)
    raise NoFreePort(first=host.settings.host.ports[0], last=host.settings.host.ports[-1], host=host.name)


def _check_free(host: HostContext, instance: InstanceId, port: int) -> None:
    address = host.settings.host.address
    try:
        with socket.create_server((address, port)):
            pass
    except OSError as taken:
        if _is_its_own(host, instance, port):
            return
        holder = _publisher(host, port) or _listener(port) or f"something else ({os.strerror(taken.errno or 0)})"
        raise PortTaken(port=port, host=host.name, holder=holder) from taken


def _is_its_own(host: HostContext, instance: InstanceId, port: int) -> bool:
    container = host.runtime.find(host.container_name(instance.service))
    return container is not None and container.status is Status.RUNNING and port in container.host_ports.values()


def _publisher(host: HostContext, port: int) -> str | None:
    """Whose container it is: the program that listens for it is the container engine's own."""
    publishing = (each for each in host.runtime.containers({}) if port in each.host_ports.values())
    return next((f"the container {container.name}" for container in publishing), None)


def _listener(port: int) -> str | None:
    """Who listens there, as far as this worker may know."""
    try:
        sockets = psutil.net_connections("tcp")
        pid = next((one.pid for one in sockets if one.laddr and one.laddr.port == port and one.pid), None)
        return f"{psutil.Process(pid).name()} (process {pid})" if pid else None
    except psutil.Error:
        return None
