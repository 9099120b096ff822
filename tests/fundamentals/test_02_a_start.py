"""A start: from a request over HTTP to a container that answers its health check."""

from __future__ import annotations

from lab.commands import a_start_of as start_of

from aima_core.domain.operations import Phase, State
from aima_core.domain.services import InstanceState
from aima_worker.runtime import Status

SERVICE = "svc-tiny-dial"


def test_a_start_passes_its_phases_and_ends_with_a_container_that_answers(host):
    command = start_of(SERVICE)

    outcome = host.execute(command)

    assert [event.phase for event in outcome.events] == [Phase.QUEUED, Phase.STARTING, Phase.LOADING, Phase.READY]
    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.instance.state is InstanceState.READY
    assert host.container(SERVICE).status is Status.RUNNING
    assert host.runtime.probe(f"{outcome.operation.endpoint}/health") == 200


def test_a_start_requested_over_http_is_recorded_first_and_executed_by_a_host(api, host):
    operation = api.start(SERVICE, model="Dial")
    recorded = api.operation(operation)

    host.execute(operation)

    assert recorded["state"] == "queued"
    assert api.operation(operation)["state"] == "succeeded"
    assert [each["state"] for each in api.get(f"/v1/services/{SERVICE}")["instances"]] == ["ready"]


def test_a_second_start_of_a_running_service_adopts_its_container(host):
    first = host.execute(start_of(SERVICE))
    before = host.container(SERVICE)

    second = host.execute(start_of(SERVICE))

    assert second.operation.endpoint == first.operation.endpoint
    assert host.container(SERVICE).id == before.id
