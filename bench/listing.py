"""A page of services against as many bare JSON values and a page from few services; all port leases of a fleet."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.domain.services import Desired, Instance, InstanceState, Service
from aima_core.redis.connection import command_link
from aima_core.store.operations import now
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import KeyRing, SigningKey
from aima_core.trust.records import SignedService
from bench.comparison import Bounded, Comparison, RatioAtMost, Result, size, take_turns
from bench.crowd import seconds_for
from bench.installation import SIGNING_KEY, installation, own_redis

ROUNDS = 31
NEEDS = ("redis",)
PAGE = 100
MANY = size(10_000)
FLAT = 1.2
"""The tolerance against a page from few services."""
HOSTS, LEASES_EACH = 50, size(100)
_KEY = SigningKey(SIGNING_KEY)


def measure(rounds: int) -> list[Result]:
    return [*_services(rounds), _ports(rounds)]


def _services(rounds: int) -> list[Comparison]:
    with (
        installation(hosts=1) as many,
        TemporaryDirectory(prefix="aima-bench-") as directory,
        own_redis(Path(directory)) as few,
    ):
        _fill(many.redis_url, MANY)
        _fill(few.url, PAGE)
        seconds = take_turns(
            rounds,
            {
                "store": _timed(_page_of(many.redis_url)),
                "HTTP": lambda: seconds_for(f"{many.url}/v1/services", times=1, status=200),
                "few": _timed(_page_of(few.url)),
                "bare": _timed(_bare(many.redis_url)),
            },
        )
    what, bare = f"list {PAGE} of {MANY}", f"against {PAGE} JSON values bare"
    return [
        Comparison(f"{what}, {bare}", seconds["store"], seconds["bare"], RatioAtMost(2)),
        Comparison(f"{what} over HTTP, {bare}", seconds["HTTP"], seconds["bare"], RatioAtMost(2)),
        Comparison(f"{what}, against {PAGE} of {PAGE}", seconds["store"], seconds["few"], RatioAtMost(FLAT)),
    ]


def _ports(rounds: int) -> Bounded:
    with installation(hosts=HOSTS) as fleet:
        for number in range(HOSTS):
            _lease(PortStore(command_link(fleet.redis_url), HostName(f"host-{number}")))
        took = [seconds_for(f"{fleet.url}/v1/ports", times=1, status=200) * 1000 for _ in range(rounds)]
    return Bounded(f"list {HOSTS * LEASES_EACH} port leases of {HOSTS} hosts over HTTP", took, "ms", most=10)


def _lease(ports: PortStore) -> None:
    ports.set_range(range(20000, 21000))
    for number in range(LEASES_EACH):
        holder = InstanceId(f"svc-tiny-model-{number}@host")
        ports.persist(holder, ports.lease(holder, fence=1), fence=1)


def _fill(redis_url: str, services: int) -> None:
    store, host = ServiceStore(command_link(redis_url), KeyRing([_KEY.public])), HostName("host-0")
    for number in range(services):
        service = Service(id=ServiceId(f"svc-tiny-model-{number:05d}"), created_at=now())
        store.put(SignedService.of(service, _KEY))
        store.replace_desired(_instance(service, host))


def _instance(service: Service, host: HostName) -> Instance:
    return Instance(
        id=service.id.on(host), desired=Desired.RUNNING, fence=1, state=InstanceState.READY, port=20000, since=now()
    )


def _page_of(redis_url: str) -> Callable[[], object]:
    store = ServiceStore(command_link(redis_url), KeyRing([_KEY.public]))

    return lambda: json.loads(f"[{store.listing(limit=PAGE).services}]")


def _bare(redis_url: str) -> Callable[[], object]:
    redis = command_link(redis_url)
    service = Service(id=ServiceId("svc-tiny-model"), created_at=now())
    instance = _instance(service, HostName("host-0"))
    text = json.dumps({**service.model_dump(mode="json"), "instances": [instance.model_dump(mode="json")]})
    names = [f"bare-{number}" for number in range(PAGE)]
    for name in names:
        redis.set(name, text)
    return lambda: [json.loads(value or "") for value in redis.mget(names)]


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def turn() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return turn
