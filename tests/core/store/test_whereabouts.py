"""The whereabouts of services: their specs, instances and active starts, of several services in one round trip."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.redis import keys
from aima_core.store.services import ServiceStore

pytestmark = pytest.mark.redis

ALPHA, BETA, GAMMA = map(HostName, ("alpha", "beta", "gamma"))
SERVICE, OTHER, NONE = map(ServiceId, ("svc-tiny-dial", "svc-tiny-other", "svc-tiny-none"))


@pytest.fixture
def services(redis):
    return ServiceStore(redis)


def an_instance(service: ServiceId, host: HostName, *, runs: bool = True) -> Instance:
    state, desired = (InstanceState.READY, Desired.RUNNING) if runs else (InstanceState.STOPPED, Desired.STOPPED)
    return Instance(id=service.on(host), desired=desired, fence=7, state=state, since=datetime.now(UTC))


def test_the_instances_of_several_services_are_read_with_those_that_stopped_last(services):
    stopped, running, other = (
        an_instance(SERVICE, ALPHA, runs=False),
        an_instance(SERVICE, BETA),
        an_instance(OTHER, GAMMA),
    )
    for each in (stopped, running, other):
        services.replace_desired(each)

    found = services.placements([SERVICE, NONE, OTHER])

    assert {id: each.hosts for id, each in found.items()} == {SERVICE: [BETA, ALPHA], NONE: [], OTHER: [GAMMA]}
    assert [each.wanted for each in found.values()] == [
        {BETA: services.instance(running.id)},
        {},
        {GAMMA: services.instance(other.id)},
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"record": '{"state":"ready"}\nsvc-tiny-dial@gamma {}', "fence": "1", "desired": "running"},
        {"record": "{}", "desired": "running"},
        {"record": "", "fence": "1\n\n", "desired": "running"},
    ],
)
def test_a_record_of_another_writer_hides_no_other_instance(services, redis, fields):
    services.replace_desired(an_instance(SERVICE, ALPHA))
    redis.zadd(keys.INSTANCES, {SERVICE.on(BETA): 0, f"{SERVICE}@\n": 0})
    redis.hset(f"{keys.instance}{SERVICE.on(BETA)}", mapping=fields)

    found = services.placements([SERVICE])[SERVICE]

    assert found.hosts == [ALPHA, BETA]
    assert found.wanted == {ALPHA: services.instance(SERVICE.on(ALPHA)), BETA: None}
