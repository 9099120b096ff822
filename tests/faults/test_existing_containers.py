"""Containers under a service's name before its start: its own leftovers, or a foreign container."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

import docker
import pytest
from docker.errors import NotFound
from docker.models.containers import Container
from faults.conftest import PORTS
from faults.dial import DIAL_IMAGE, a_dial
from lab.commands import SERVICE, a_stop_of, granted_to
from lab.desk import Desk

from aima_core.domain.fields import Scalar
from aima_core.domain.operations import Phase, State
from aima_core.domain.services import InstanceState
from aima_worker.operations.container_spec import container_spec
from aima_worker.runtime import Status
from aima_worker.runtimes.docker.container_config import container_config

pytestmark = [pytest.mark.docker, pytest.mark.redis]


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    with closing(docker.from_env()) as client:
        yield client


@pytest.fixture
def theirs(desk: Desk, client: docker.DockerClient) -> Iterator[Container]:
    """A running foreign container with the name of ours."""
    name = desk.host.container_name(SERVICE)
    container = client.containers.run(DIAL_IMAGE, ["sleep", "1000"], name=name, init=True, detach=True)
    yield container
    with suppress(NotFound):
        container.remove(force=True)


@pytest.mark.parametrize("dialled", [{}, {"load-seconds": 0.1}], ids=["as it is wanted now", "with other arguments"])
def test_a_container_that_a_crashed_attempt_created_and_never_started_does_not_block_the_next(
    desk: Desk, client: docker.DockerClient, dialled: dict[str, Scalar]
) -> None:
    command = a_dial(dialled=dialled)
    granted = granted_to(command)
    spec = container_spec(desk.host, command, image=DIAL_IMAGE, directory=None, port=PORTS[0], granted=granted)
    client.api.create_container_from_config(container_config(spec), spec.name)
    assert desk.host.runtime.find(spec.name).status is Status.CREATED

    outcome = desk.run_command(a_dial())
    running = desk.host.runtime.find(spec.name)
    desk.run_command(a_stop_of())

    assert outcome.operation.state is State.SUCCEEDED
    assert running.status is Status.RUNNING


def test_a_foreign_container_of_the_same_name_is_refused_and_left_alone(desk: Desk, theirs: Container) -> None:
    outcome = desk.run_command(a_dial())

    theirs.reload()
    assert outcome.code == "engine_refused"
    assert f"a container named {theirs.name} exists, and is not AIMA's" in outcome.operation.failure.message
    assert outcome.instance.state is InstanceState.FAILED
    assert theirs.status == "running"


def test_a_stop_leaves_a_foreign_container_alone(desk: Desk, theirs: Container) -> None:
    outcome = desk.run_command(a_stop_of(grace="0s"))

    theirs.reload()
    assert outcome.operation.state is State.SUCCEEDED
    assert theirs.status == "running"


def test_removing_the_container_by_hand_while_it_loads_fails_the_start(desk: Desk, client: docker.DockerClient) -> None:
    id, end = desk.begin(a_dial(dialled={"load-seconds": 30}))
    desk.until_phase(id, Phase.LOADING)

    client.api.remove_container(desk.host.container_name(SERVICE), force=True)
    outcome = end.result(60)

    assert outcome.code == "container_exited"
