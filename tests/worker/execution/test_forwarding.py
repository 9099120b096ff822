"""Forwarding and redelivery: a full host forwards a start to an eligible host, or parks it until capacity is freed."""

from __future__ import annotations

import pytest
from lab.commands import a_start_of, enqueue_signed

from aima_core.domain.catalog import Model
from aima_core.domain.ids import HostName, OperationId, Route
from aima_core.domain.models import Manifest, ManifestFile, ModelOnHost
from aima_core.domain.operations import State
from aima_core.redis import keys
from aima_core.store.hosts import HostStore
from aima_core.store.operations import Stalled
from aima_worker.execution.executor import execute
from aima_worker.execution.redelivery import RedeliveryLoop
from aima_worker.node.facts import host_facts

pytestmark = pytest.mark.redis

CLASS = Route("cpu.amd64")


@pytest.fixture
def hosts(redis):
    return HostStore(redis)


@pytest.fixture
def joined(desk, hosts):
    """Joins hosts with that much memory; the desk's own is alpha."""

    def join(name, *, gigabytes=25, **more):
        facts = host_facts(desk.host.settings, desk.host.runtime)
        has = {"name": name, "memory": gigabytes * 10**9, "memory_reserve": 0, "routes": (f"host.{name}", CLASS)}
        has |= more
        hosts.announce(facts.model_copy(update=has))
        hosts.join(HostName(name), identity=name, session="the test's")

    return join


def too_much(desk, service="svc-tiny-dial"):
    """A start that exceeds the capacity of any real machine."""
    requires = {"platforms": ["linux/amd64"], "memory": "900TB"}
    return enqueue_signed(desk.host.operations, a_start_of(service, requires=requires), route=CLASS)


def too_much_of(desk, manifest, service):
    """The same, of a model from an origin."""
    requires = {"platforms": ["linux/amd64"], "memory": "900TB"}
    facts = {"name": "small", "type": "test", "size": "1GB", "engines": ["tiny-test"], "source": manifest.source}
    start = a_start_of(service, requires=requires, model_mount="/models")
    start = start.model_copy(update={"model": Model.model_validate(facts), "manifest": manifest})
    return enqueue_signed(desk.host.operations, start, route=CLASS)


def messages_on(redis, queue):
    return redis.llen(keys.queue(queue))


def test_an_operation_without_capacity_here_is_forwarded_to_a_host_that_has_it(desk, redis, joined):
    joined("alpha")
    joined("beta", gigabytes=10**6)
    joined("gamma")
    start = too_much(desk)

    execute(desk.host, start.id)

    assert messages_on(redis, "host.beta") == 1
    assert messages_on(redis, "host.gamma") == 0
    assert desk.host.operations.get(start.id).state is State.QUEUED


def test_of_the_eligible_hosts_those_with_the_most_of_the_model_are_forwarded_to(desk, redis, joined):
    file = ManifestFile(path="weights", size=10**9, sha256="a" * 64)
    manifest = Manifest(model="small", source="hf:a/small@main", revision="b" * 40, endpoint="http://o", files=(file,))
    has = {"model": "small", "revision": "b" * 40, "name": manifest.name, "size": 10**9}
    part = ModelOnHost(**has, received=10**8, published=False, verified=False)
    verified = ModelOnHost(**has, received=10**9, published=True, verified=True)
    joined("alpha", stored=(verified,))
    for name, stored in {"none": (), "old": None, "part": (part,), "one": (verified,), "other": (verified,)}.items():
        joined(name, gigabytes=10**6, stored=stored)
    services = [f"svc-tiny-{number}" for number in range(20)]

    for service in services:
        execute(desk.host, too_much_of(desk, manifest, service).id)
    forwarded = {name: messages_on(redis, f"host.{name}") for name in ("none", "old", "part", "one", "other")}

    assert forwarded["one"] + forwarded["other"] == len(services)
    assert min(forwarded["one"], forwarded["other"]) > 0


def test_an_operation_that_no_host_can_run_now_is_pending_with_the_reason_of_each_host(desk, joined):
    joined("alpha")
    joined("beta", gigabytes=20)
    start = too_much(desk)

    execute(desk.host, start.id)

    waits = desk.host.operations.get(start.id)
    assert "alpha" in waits.reason and "beta" in waits.reason and "900 TB" in waits.reason
    assert waits.host is None


def test_an_unchanged_reason_is_reported_once(desk, joined):
    joined("alpha")
    start = too_much(desk)

    for _ in range(3):
        execute(desk.host, start.id)

    assert len(desk.host.operations.events(start.id)) == 2


def test_a_host_with_free_capacity_requests_only_pending_operations_that_it_can_run(desk, redis, joined):
    joined("alpha")
    waits = too_much(desk)
    execute(desk.host, waits.id)
    redelivery = RedeliveryLoop(desk.host)

    redelivery.run_once()
    while_it_is_full = messages_on(redis, "host.alpha")
    joined("alpha", gigabytes=10**6)
    redelivery.run_once()
    redelivery.run_once()

    assert (while_it_is_full, messages_on(redis, "host.alpha")) == (0, 1)


def test_an_unclaimed_operation_is_redelivered_unless_its_message_is_still_queued(desk, redis, joined):
    joined("alpha")
    lost, waiting = (enqueue_signed(desk.host.operations, a_start_of(f"svc-tiny-{name}")) for name in ("a", "b"))
    redis.delete(keys.queue("host.alpha"))
    redis.zadd(keys.ACTIVE, {lost.id: 0})
    redelivery = RedeliveryLoop(desk.host)

    redelivery.run_once()
    redis.zadd(keys.ACTIVE, {waiting.id: 0})
    redelivery.run_once()

    assert messages_on(redis, "host.alpha") == 1


def test_a_claimed_operation_is_not_redelivered(desk, redis):
    start = enqueue_signed(desk.host.operations, a_start_of())
    desk.host.claim_store.claim(OperationId(start.id), desk.host.name)
    redis.delete(keys.queue("host.alpha"))
    redis.zadd(keys.ACTIVE, {start.id: 0})

    RedeliveryLoop(desk.host).run_once()

    assert messages_on(redis, "host.alpha") == 0


def test_a_start_queued_behind_busy_slots_gets_its_reason_once(desk, redis, joined):
    joined("alpha")
    busy = [enqueue_signed(desk.host.operations, a_start_of(f"svc-tiny-{number}")) for number in range(4)]
    for start in busy:
        desk.host.claim_store.claim(OperationId(start.id), desk.host.name, desk.host.capacity())
    waits = enqueue_signed(desk.host.operations, a_start_of("svc-tiny-waits"), route=CLASS)

    for _ in range(2):
        redis.zadd(keys.ACTIVE, {waits.id: 0})
        RedeliveryLoop(desk.host).run_once()

    assert "alpha: all 4 start slots busy" in desk.host.operations.get(waits.id).reason
    assert len(desk.host.operations.events(waits.id)) == 2


def test_a_pending_start_without_a_reason_gets_one_from_the_redelivery_pass(desk, redis, joined):
    """Race: a host forwarded it to another, whose capacity a different start claimed first."""
    joined("alpha")
    for number in range(4):
        busy = enqueue_signed(desk.host.operations, a_start_of(f"svc-tiny-{number}"))
        desk.host.claim_store.claim(OperationId(busy.id), desk.host.name, desk.host.capacity())
    waits = enqueue_signed(desk.host.operations, a_start_of("svc-tiny-waits"), route=CLASS)
    desk.host.claim_store.claim(OperationId(waits.id), desk.host.name, desk.host.capacity())
    redis.delete(keys.queue(CLASS))
    redis.zadd(keys.ACTIVE, {waits.id: 0})

    RedeliveryLoop(desk.host).run_once()

    assert "alpha: all 4 start slots busy" in desk.host.operations.get(waits.id).reason


def test_a_start_that_is_about_to_be_claimed_gets_no_reason(desk, redis, joined):
    joined("alpha")
    comes = enqueue_signed(desk.host.operations, a_start_of(), route=CLASS)
    redis.zadd(keys.ACTIVE, {comes.id: 0})

    RedeliveryLoop(desk.host).run_once()

    assert desk.host.operations.get(comes.id).reason is None


def test_an_operation_that_expires_meanwhile_does_not_end_the_redelivery_pass(desk, redis, joined, monkeypatch):
    joined("alpha")
    there = enqueue_signed(desk.host.operations, a_start_of())
    redis.delete(keys.queue("host.alpha"))
    found = [(OperationId.new(), "host.alpha"), (there.id, "host.alpha")]
    monkeypatch.setattr(
        desk.host.operations, "find_stalled", lambda: Stalled(0, found, without_reason=[OperationId.new()])
    )

    RedeliveryLoop(desk.host).run_once()

    assert messages_on(redis, "host.alpha") == 1
