"""The invariants at rest: each function yields the violations of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from chaos.following import Follower
from chaos.messages import queues, unacked
from chaos.stage import Found, Held, Stage
from lab.keyspace import odd_keys

from aima_core.domain.hosts import PortLease
from aima_core.domain.ids import HostName, InstanceId, ServiceId, SignedText
from aima_core.domain.operations import Operation, State
from aima_core.domain.resources import Allocation
from aima_core.domain.services import Desired, Instance, InstanceState, Service
from aima_core.redis import keys
from aima_core.redis.connection import RedisClient
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore

MOST_MORE_THREADS = 3
MOST_MORE_POOLED = 48
"""Threads without a name belong to other programs; an API node has up to 40 for requests."""
MOST_MORE_DESCRIPTORS = 24
"""A connection pool grows with its concurrent users."""
OPERATIONS_AT_ONCE = 1000


@dataclass(frozen=True)
class Scene:
    """A snapshot of records and reality."""

    redis: RedisClient
    installation: str
    accepted: Sequence[str]
    operations: Mapping[str, Operation]
    services: Mapping[ServiceId, Service]
    instances: Sequence[Instance]
    containers: Mapping[str, Sequence[Found]]
    leases: Sequence[PortLease]
    held: Mapping[HostName, Mapping[ServiceId, Allocation]]
    followers: Sequence[Follower]
    before: Mapping[str, Held]
    after: Mapping[str, Held]

    @property
    def running(self) -> dict[str, Found]:
        return {each.name: each for found in self.containers.values() for each in found if each.status == "running"}

    @property
    def wanted(self) -> list[Instance]:
        return [each for each in self.instances if (each.desired, each.state) == (Desired.RUNNING, InstanceState.READY)]

    def name_of(self, id: InstanceId) -> str:
        return f"{self.installation}.{id.service}.{id.host}"


def scene_of(
    stage: Stage,
    installation: str,
    *,
    accepted: Sequence[str],
    followers: Sequence[Follower],
    before: Mapping[str, Held],
) -> Scene:
    redis = stage.redis()
    hosts = [HostName(name) for name in stage.shape.hosts]
    services = ServiceStore(redis)
    return Scene(
        redis=redis,
        installation=installation,
        accepted=accepted,
        operations={operation.id: operation for operation in _operations(redis)},
        services={ServiceId(id): _stored_spec(redis, id) for id in redis.zrange(keys.SERVICES, 0, -1)},
        instances=services.instances(redis.zrange(keys.INSTANCES, 0, -1)),
        containers=stage.containers(),
        leases=[lease for host in hosts for lease in PortStore(redis, host).all()],
        held=AllocationStore(redis).held_on(hosts),
        followers=followers,
        before=before,
        after=stage.held(),
    )


def _stored_spec(redis: RedisClient, id: str) -> Service:
    record = redis.get(keys.service(ServiceId(id)))
    return Service.model_validate_json(SignedText.model_validate_json(record or "").text)


# Operations -------------------------------------------------------------------------------------------------------


def every_operation_has_ended(scene: Scene) -> Iterable[str]:
    for each in scene.operations.values():
        if not each.state.ended:
            yield f"{_told(each)} is {each.state}/{each.phase} in attempt {each.attempt}: {each.reason}"


def none_that_was_accepted_is_lost(scene: Scene) -> Iterable[str]:
    for id in scene.accepted:
        if id not in scene.operations:
            yield f"{id} was accepted, and there is no record of it"


def what_did_not_succeed_says_why(scene: Scene) -> Iterable[str]:
    for each in scene.operations.values():
        if each.state in (State.FAILED, State.CANCELLED) and each.failure is None:
            yield f"{_told(each)} is {each.state} for no reason"


def nothing_failed_by_a_bug(scene: Scene) -> Iterable[str]:
    for each in scene.operations.values():
        if each.failure is not None and each.failure.code == "internal_error":
            yield f"{_told(each)}: {each.failure.message}"


# Containers -------------------------------------------------------------------------------------------------------


def what_is_wanted_runs_and_nothing_else(scene: Scene) -> Iterable[str]:
    wanted = {scene.name_of(each.id): each for each in scene.wanted}
    for name in sorted(wanted.keys() - scene.running.keys()):
        yield f"{name} is wanted and ready, and does not run: {wanted[name]!r}"
    for name in sorted(scene.running.keys() - wanted.keys()):
        yield f"{name} runs, and is not wanted: {_record(scene, name)}"


def every_container_runs(scene: Scene) -> Iterable[str]:
    for host, found in scene.containers.items():
        for each in found:
            if each.status != "running":
                yield f"{each.name} on {host} is {each.status}: {_record(scene, each.name)}"


def each_container_is_there_once(scene: Scene) -> Iterable[str]:
    names = Counter(each.name for found in scene.containers.values() for each in found)
    yield from (f"{name} is there {count} times" for name, count in names.items() if count > 1)


def no_instance_is_half_way(scene: Scene) -> Iterable[str]:
    settled = {
        Desired.RUNNING: (InstanceState.READY, InstanceState.FAILED),
        Desired.STOPPED: (InstanceState.STOPPED, InstanceState.FAILED),
    }
    for each in scene.instances:
        if each.state not in settled[each.desired]:
            yield f"{each.id} shall be {each.desired}, and is {each.state} since {each.since}: {each!r}"
        elif each.state is InstanceState.FAILED and each.failure is None:
            yield f"{each.id} has failed for no reason"


def no_service_runs_more_often_than_asked(scene: Scene) -> Iterable[str]:
    for id, count in Counter(each.id.service for each in scene.wanted).items():
        service = scene.services.get(id)
        if service and count > (most := len(service.hosts) or service.replicas):
            hosts = [each.id.host for each in scene.wanted if each.id.service == id]
            yield f"{id} runs {count} times, and {most} were asked for: on {hosts}"


# Resources -----------------------------------------------------------------------------------------------------


def leases_are_the_ports_in_use(scene: Scene) -> Iterable[str]:
    leased = {(scene.name_of(lease.holder), lease.port) for lease in scene.leases}
    used = {(each.name, each.port) for each in scene.running.values()}
    yield from (f"{name} holds port {port}, and does not use it" for name, port in sorted(leased - used))
    yield from (f"{name} uses port {port}, and does not hold it" for name, port in sorted(used - leased))
    for lease in scene.leases:
        if lease.until is not None:
            yield f"{lease.holder} runs, and its lease of {lease.port} ends at {lease.until}"


def room_is_held_by_what_runs(scene: Scene) -> Iterable[str]:
    held = {scene.name_of(service.on(host)): each for host, by in scene.held.items() for service, each in by.items()}
    yield from (f"{name} holds {held[name]}, and does not run" for name in sorted(held.keys() - scene.running.keys()))
    yield from (f"{name} runs, and holds no room" for name in sorted(scene.running.keys() - held.keys()))
    yield from (f"{name} is still said to be loading" for name, each in held.items() if each.loading)


def no_claim_is_left(scene: Scene) -> Iterable[str]:
    for key in scene.redis.scan_iter(match=f"{keys.claim}*", count=1000):
        yield f"{key} is held by {scene.redis.get(key)}"
    for host in scene.held:
        now = scene.redis.time()[0] * 1000  # expired slots no longer count, and the next claim removes them
        yield from (f"{id} takes a slot of {host}" for id in scene.redis.zrangebyscore(keys.slots(host), now, "+inf"))
    for name in (keys.ACTIVE, keys.WAITING):
        yield from (f"{id} is in {name}" for id in scene.redis.zrange(name, 0, -1))


def the_queues_are_empty(scene: Scene) -> Iterable[str]:
    received = {keys.queue(route) for host in HostStore(scene.redis).all() for route in host.routes}
    for name, messages in queues(scene.redis).items():
        if name in received or name.endswith(".stop"):  # without a subscriber, messages wait for a host that joins
            yield f"{len(messages)} messages wait in {name}"
    for id in unacked(scene.redis).values():  # of killed workers: each is redelivered late
        if id in scene.operations and not scene.operations[id].state.ended:
            yield f"{id} has not ended, and its message is with a worker"


def every_key_is_as_documented(scene: Scene) -> Iterable[str]:
    return odd_keys(scene.redis)


def every_process_holds_what_it_held(scene: Scene) -> Iterable[str]:
    for name in scene.before.keys() & scene.after.keys():
        before, after = scene.before[name], scene.after[name]
        more = Counter(after.threads) - Counter(before.threads) - Counter(f"tail of {each}" for each in scene.running)
        pooled = more.pop("", 0)
        if more.total() > MOST_MORE_THREADS or pooled > MOST_MORE_POOLED:
            yield f"{name} has more threads than it had, by {pooled} and {dict(more)}"
        if after.descriptors > before.descriptors + MOST_MORE_DESCRIPTORS:
            yield f"{name} has {after.descriptors} descriptors, and had {before.descriptors}"


# Followers --------------------------------------------------------------------------------------------------------


def followers_receive_every_event_once(scene: Scene) -> Iterable[str]:
    for each in scene.followers:
        record = scene.operations.get(each.operation)
        received, last = each.numbers, record.seq if record else 0
        yield from (f"a follower of {each.operation} {mishap}" for mishap in each.mishaps)
        if each.ended_with is None:
            yield f"a follower of {each.operation} never heard of its end: {received[-3:]} of {last}"
        elif received != list(range(1, last + 1)):
            odd = [number for before, number in zip([0, *received], received, strict=False) if number != before + 1]
            yield f"a follower of {each.operation} heard {len(received)} events of {last}, oddly at {odd[:5]}"


INVARIANTS: tuple[Callable[[Scene], Iterable[str]], ...] = (
    every_operation_has_ended,
    none_that_was_accepted_is_lost,
    what_did_not_succeed_says_why,
    nothing_failed_by_a_bug,
    what_is_wanted_runs_and_nothing_else,
    every_container_runs,
    each_container_is_there_once,
    no_instance_is_half_way,
    no_service_runs_more_often_than_asked,
    leases_are_the_ports_in_use,
    room_is_held_by_what_runs,
    no_claim_is_left,
    the_queues_are_empty,
    every_key_is_as_documented,
    every_process_holds_what_it_held,
    followers_receive_every_event_once,
)


def offences(scene: Scene) -> dict[str, list[str]]:
    """The violations by invariant."""
    found = {invariant.__name__: list(invariant(scene)) for invariant in INVARIANTS}
    return {name: offenders for name, offenders in found.items() if offenders}


def live(stage: Stage) -> set[str]:
    return {host.name for host in HostStore(stage.redis()).all() if host.live}


def _operations(redis: RedisClient) -> Iterable[Operation]:
    store, after = OperationStore(redis), None
    while True:
        page = store.page(limit=OPERATIONS_AT_ONCE, after=after)
        yield from page.items
        if (after := page.after) is None:
            return


def _told(operation: Operation) -> str:
    what = f"{operation.kind} {operation.id} of {operation.service or operation.image}"
    return f"{what} (fence {operation.fence}, on {operation.host})"


def _record(scene: Scene, name: str) -> str:
    return next((repr(each) for each in scene.instances if scene.name_of(each.id) == name), "there is no record")
