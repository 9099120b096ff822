"""`POST /v1/services:plan` of 50 services on a fleet of 50 hosts with 5,000 instances.

The instances are those of as many services, or of services with one on each host; the services run as planned, or
each of their containers is to be replaced.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aima_api.catalog.live import LiveCatalog
from aima_api.client import Api
from aima_api.models.manifests import ManifestStore
from aima_api.planning.planner import StartPlanner
from aima_core.domain.ids import EngineName, HostName, ServiceId
from aima_core.domain.resources import Allocation
from aima_core.domain.services import Desired, Instance, InstanceState, Service
from aima_core.redis.connection import command_link
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import KeyRing, SigningKey
from aima_core.trust.records import SignedService
from bench.comparison import Bounded, Result, size
from bench.crowd import seconds_for
from bench.installation import SIGNING_KEY, installation

ROUNDS = 15
NEEDS = ("redis",)
PLANNED, HOSTS, INSTANCES = size(50), 50, size(5000)
AT_MOST_SECONDS = 0.3
_PATH = "/v1/services:plan"
_KEY = SigningKey(SIGNING_KEY)
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"unchanged": {}, "recreate": {"environment": {"THREADS": "2"}}}
"""By what they do to each instance."""


def measure(rounds: int) -> list[Result]:
    return [result for replicas in (1, HOSTS) for result in _plans(rounds, replicas)]


def _plans(rounds: int, replicas: int) -> Iterator[Result]:
    fleet, planned = f"{HOSTS} hosts with {INSTANCES} instances", PLANNED * replicas
    with installation(hosts=HOSTS) as aima, Api(aima.url) as api:
        _fill(aima.redis_url, replicas)
        for action, options in _OPTIONS.items():
            body = {"services": [{"id": _id(number), **options} for number in range(PLANNED)]}
            _check(api.post(_PATH, body)["items"], action, planned)
            took = [_seconds(aima.url, body) for _ in range(rounds)]
            yield Bounded(f"plan of {PLANNED} services, {fleet}: {action} {planned}", took, "s", most=AT_MOST_SECONDS)


def _check(plans: Sequence[Mapping[str, Any]], action: str, planned: int) -> None:
    """Raises RuntimeError unless this is planned for so many instances."""
    actions = Counter(each["action"] for plan in plans for each in plan["instances"])
    if actions != {action: planned}:
        raise RuntimeError(f"something else was planned: {actions}")


def _seconds(url: str, body: Mapping[str, Any]) -> float:
    return seconds_for(f"{url}{_PATH}", json.dumps(body).encode(), times=1, status=200)


def _fill(redis_url: str, replicas: int) -> None:
    """Services that run as asked, each on as many hosts as it has replicas."""
    redis = command_link(redis_url)
    services, allocations = ServiceStore(redis, KeyRing([_KEY.public])), AllocationStore(redis)
    planner = StartPlanner(LiveCatalog(), HostStore(redis), allocations, ManifestStore(redis, KeyRing([])))
    for number in range(INSTANCES // replicas):
        service = Service(
            id=_id(number), engine=EngineName("dial-cpu"), model="Dial", replicas=replicas, created_at=now()
        )
        services.put(SignedService.of(service, _KEY))
        runs = planner.plan(service).runs
        for replica in range(replicas):
            host = HostName(f"host-{(number + replica) % HOSTS}")
            services.replace_desired(_instance(service, host, runs))
            allocations.keep(host, service.id, Allocation(memory=1 << 30, fence=1))


def _id(number: int) -> ServiceId:
    return ServiceId(f"svc-tiny-{number:04d}")


def _instance(service: Service, host: HostName, runs: str) -> Instance:
    return Instance(
        id=service.id.on(host),
        desired=Desired.RUNNING,
        fence=1,
        state=InstanceState.READY,
        revision=service.revision,
        runs=runs,
        since=now(),
    )
