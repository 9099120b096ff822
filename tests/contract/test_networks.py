"""The contract of `ContainerSpec.network`: containers reach neither each other nor their host's ports."""

from __future__ import annotations

from datetime import timedelta

import pytest
from contract.bench import Bench, Program
from contract.test_run import STARTS_WITHIN, answers
from lab.parts import eventually

from aima_worker.runtime import Container, ContainerRuntime

ANYWHERE = "0.0.0.0"
"""Also the gateway of every network."""


@pytest.fixture(autouse=True)
def has_networks(bench: Bench) -> None:
    if not bench.isolates:
        pytest.skip("this runtime has no networks")


def serving(bench: Bench, **changes: object) -> Container:
    container = bench.runtime.run(bench.spec(Program.SERVES, host_address=ANYWHERE, **changes))
    assert eventually(lambda: answers(bench, container), within=STARTS_WITHIN)
    return container


def test_an_engine_does_not_reach_the_published_port_of_its_neighbour_and_clients_do(bench: Bench) -> None:
    neighbour = serving(bench, network=bench.network)
    hostile = serving(bench, network=bench.network)
    elsewhere = serving(bench)
    (port,) = neighbour.host_ports.values()

    assert bench.reaches(elsewhere.name, bench.gateway, port)
    assert not bench.reaches(hostile.name, bench.gateway, port)
    assert answers(bench, neighbour)


def test_a_container_from_before_the_network_is_adopted(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    before = runtime.run(spec)

    after = runtime.run(spec.model_copy(update={"network": bench.network}))

    assert after.id == before.id


def test_the_same_name_can_be_run_in_the_network_again(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES, network=bench.network)
    runtime.run(spec)
    runtime.remove(spec.name, grace=timedelta())

    again = runtime.run(spec)

    assert eventually(lambda: answers(bench, again), within=STARTS_WITHIN)
