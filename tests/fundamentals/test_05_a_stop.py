"""A stop: removes the container, releases what it held, and wins over any start before it."""

from __future__ import annotations

from lab.commands import a_start_of as start_of
from lab.commands import a_stop_of as stop_of

from aima_core.domain.operations import Phase, State
from aima_core.domain.services import Desired, InstanceState

SERVICE = "svc-tiny-dial"


def test_a_stop_removes_the_container_and_releases_its_port(host):
    host.execute(start_of(SERVICE))

    outcome = host.execute(stop_of(SERVICE))

    assert outcome.phases == [Phase.STOPPING, Phase.STOPPED]
    assert host.state(SERVICE) is InstanceState.STOPPED
    assert host.containers() == []
    assert host.leased_ports() == []


def test_a_stop_beats_a_start_under_way(host):
    host.runtime.stall_next_pull()
    _, start = host.begin(start_of(SERVICE, image="large:1"), until=Phase.PULLING)

    stop = host.execute(stop_of(SERVICE))

    assert start.result(60).operation.state is State.CANCELLED
    assert stop.operation.state is State.SUCCEEDED
    assert host.instance(SERVICE).desired is Desired.STOPPED
    assert host.containers() == []


def test_a_start_submitted_before_a_stop_and_delivered_after_it_starts_nothing(host):
    late = host.submit(start_of(SERVICE))
    host.execute(stop_of(SERVICE))

    outcome = host.execute(late)

    assert outcome.operation.state is State.CANCELLED
    assert host.containers() == []
