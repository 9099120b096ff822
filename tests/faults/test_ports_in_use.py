"""Host ports in use by foreign programs or containers."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest
from faults.dial import DIAL_IMAGE, a_dial
from lab.commands import SERVICE, a_stop_of
from lab.desk import Desk

from aima_core.domain.operations import State
from aima_worker.runtime import ContainerSpec

pytestmark = [pytest.mark.docker, pytest.mark.redis]


@contextmanager
def a_program_that_listens(desk: Desk, port: int) -> Iterator[str]:
    with socket.create_server((desk.host.settings.host.address, port)):
        yield f"(pid {os.getpid()})"


@contextmanager
def a_program_that_only_bound_it(desk: Desk, port: int) -> Iterator[str]:
    with closing(socket.socket()) as silent:
        silent.bind((desk.host.settings.host.address, port))
        yield "something else (Address already in use)"


@contextmanager
def a_container_that_publishes_it(desk: Desk, port: int) -> Iterator[str]:
    name = f"squatter-{uuid.uuid4().hex[:12]}"
    spec = ContainerSpec(
        name=name,
        image=DIAL_IMAGE,
        command=("aima-dial",),
        host_address=desk.host.settings.host.address,
        host_port=port,
        container_port=8000,
    )
    desk.host.runtime.run(spec)
    try:
        yield f"the container {name}"
    finally:
        desk.host.runtime.remove(name, grace=timedelta())


squatters = pytest.mark.parametrize(
    "squatting", [a_program_that_listens, a_program_that_only_bound_it, a_container_that_publishes_it]
)


def next_port(desk: Desk) -> int:
    """The port that the next start of the service leases again; no connection was ever made to it."""
    instance = SERVICE.on(desk.host.name)
    port = desk.host.ports.lease(instance, fence=1, wanted=desk.host.settings.host.ports[-1])
    desk.host.ports.release(instance, fence=1)
    return port


@squatters
def test_a_port_in_use_is_skipped_and_its_holder_named(desk: Desk, squatting) -> None:
    port = next_port(desk)

    with squatting(desk, port) as holder:
        outcome = desk.run_command(a_dial())
        desk.run_command(a_stop_of())

    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.instance.port != port
    messages = [event.message for event in outcome.events if event.message]
    (conflict,) = (message for message in messages if f"Port {port} on alpha is in use by " in message)
    assert holder in conflict


@squatters
def test_an_explicitly_requested_port_in_use_fails_the_start(desk: Desk, squatting) -> None:
    port = next_port(desk)

    with squatting(desk, port) as holder:
        outcome = desk.run_command(a_dial(port=port))

    assert outcome.code == "port_taken"
    assert holder in outcome.operation.failure.message
