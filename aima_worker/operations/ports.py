"""Runs a container on a leased port. The lease in Redis grants the port; binding it proves that it is free.

A port that another program uses is set aside for QUARANTINE, and the next one is leased.
"""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from aima_core.domain.ids import InstanceId
from aima_core.errors import NoFreePort, PortTaken
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.operations.previous import reserved_port
from aima_worker.port_owner import owner_of_port
from aima_worker.runtime import Container, Status

QUARANTINE = timedelta(seconds=60)
MAX_TRIES = 5


def run_on_leased_port(
    host: HostContext,
    attempt: Attempt,
    instance: InstanceId,
    *,
    requested: int | None,
    address: str,
    run: Callable[[int], None],
) -> int:
    """Leases a port and runs the instance's container on it; the lease is kept for as long as the container exists.

    Raises PortTaken for a requested port, NoFreePort, PortOutOfRange, and what `run` raises.
    """
    fence, reserved = attempt.operation.fence, reserved_port(host, instance.service)
    avoid: tuple[int, timedelta] | None = None
    for _ in range(MAX_TRIES):
        lease = partial(host.ports.lease, instance, fence=fence, wanted=requested, avoid=avoid, keep=reserved)
        port = attempt.retry_until_redis_answers(lease)
        try:
            _check_free(host, instance, address, port)
            run(port)
            attempt.retry_until_redis_answers(partial(host.ports.persist, instance, port, fence=fence))
            return port
        except PortTaken as taken:
            if requested is not None:
                raise
            attempt.report(f"{taken} Trying another.")
            avoid = (port, QUARANTINE)
    raise NoFreePort(first=host.settings.host.ports[0], last=host.settings.host.ports[-1], host=host.name)


def raise_if_in_use(address: str, port: int) -> None:
    """Raises OSError if a program listens there, or the address is of elsewhere.

    Race: it binds and does not listen, so that workers that check one port at once do not find it in use by each other.
    """
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as check:
        check.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        check.bind((address, port))


def _check_free(host: HostContext, instance: InstanceId, address: str, port: int) -> None:
    try:
        raise_if_in_use(address, port)
    except OSError as refused:
        # The containers first: the process that listens for one is the container engine's. The instance's own, of an
        # attempt that a crash ended, is inspected: a listing may lack the ports of a container that has just started.
        own = host.runtime.find(host.container_name(instance.service))
        if own is not None and _publishes(own, port):
            return
        publisher = next((each.name for each in host.runtime.containers({}) if _publishes(each, port)), None)
        owner = f"the container {publisher}" if publisher else owner_of_port(port)
        holder = owner or f"something else ({os.strerror(refused.errno or 0)})"
        raise PortTaken(port=port, host=host.name, holder=holder) from refused


def _publishes(container: Container, port: int) -> bool:
    return container.status is Status.RUNNING and port in container.host_ports.values()
