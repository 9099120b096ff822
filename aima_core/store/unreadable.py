"""The report of unreadable records in Redis, by name, for `aima host list` and `aima doctor`."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from shlex import quote
from threading import Lock
from typing import Any, NamedTuple

from aima_core.domain.ids import InstanceId, OperationId, ServiceId, SignedText
from aima_core.domain.resources import Allocation
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.operation_records import operation_from
from aima_core.store.ports import lease_from, leases_of_all_hosts
from aima_core.store.readable import LENGTH, UNREADABLE, check_facts, instance_from, reason_of, replies

MAX_AGE = timedelta(seconds=5)
"""Of a report: each reads every record, and dashboards list hosts repeatedly."""


_PREFIXES: dict[str, str] = {
    "service": keys.service,
    "instance": keys.instance,
    "operation": keys.operation,
    "allocations on": keys.held,
    "port lease": keys.port,
}


class UnreadableRecords:
    def __init__(self, redis: TextRedis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._names: list[str] = []
        self._read_at = float("-inf")
        self._lock = Lock()

    def names(self) -> list[str]:
        """Those of the last few seconds. Raises BrokerUnavailable."""
        with self._lock:
            if self._clock() - self._read_at >= MAX_AGE.total_seconds():
                self._names = [str(each) for each in find_unreadable(self._redis)]
                self._read_at = self._clock()
            return self._names


class UnreadableRecord(NamedTuple):
    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name[:LENGTH]} ({self.reason})"

    @property
    def deletion(self) -> str:
        """The Redis command that deletes it, quoted for a shell: its name is another writer's."""
        of_hosts = {"host": keys.HOSTS, "session of host": keys.HOSTS_SESSIONS}
        if self.kind in of_hosts:
            return f"HDEL {of_hosts[self.kind]} {quote(self.name)}"
        return f"DEL {quote(_PREFIXES[self.kind] + self.name)}"


def find_unreadable(redis: TextRedis) -> Iterator[UnreadableRecord]:
    """Every unreadable record of a host, service, instance, active operation or allocation, by kind.

    Raises BrokerUnavailable.
    """
    with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.HOSTS)
        pipe.hgetall(keys.HOSTS_SESSIONS)
        pipe.zrange(keys.SERVICES, 0, -1)
        pipe.zrange(keys.INSTANCES, 0, -1)
        pipe.zrange(keys.ACTIVE, 0, -1)
        hosts, sessions, services, instances, operations = replies(pipe)
    yield from _hosts(hosts or {}, sessions or {})
    yield from _each(redis, "service", services, keys.service, _check_service, command="get")
    yield from _each(redis, "instance", instances, keys.instance, _check_instance)
    yield from _each(redis, "operation", operations, keys.operation, _check_operation)
    yield from _each(redis, "allocations on", list(hosts or ()), keys.held, _check_allocations)
    yield from _leases(redis)


def _hosts(hosts: Mapping[str, str], sessions: Mapping[str, str]) -> Iterator[UnreadableRecord]:
    for name, text in hosts.items():
        try:
            identity = check_facts(name, text).identity
        except UNREADABLE as wrong:
            yield UnreadableRecord("host", name, reason_of(wrong))
            continue
        session = sessions.get(name, f"{identity} ")
        if not session.startswith(f"{identity} "):
            holder = session.partition(" ")[0]
            yield UnreadableRecord("session of host", name, f"another identity, {holder[:LENGTH]!r}, holds its name")


def _each(
    redis: TextRedis,
    kind: str,
    names: list[str] | None,
    prefix: str,
    check: Callable[[str, Any], object],
    *,
    command: str = "hgetall",
) -> Iterator[UnreadableRecord]:
    names = names or []
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            getattr(pipe, command)(f"{prefix}{name}")
        found = replies(pipe)
    for name, record in zip(names, found, strict=True):
        if record is None:
            yield UnreadableRecord(kind, name, "its key has another type")
        elif record:
            try:
                check(name, record)
            except UNREADABLE as wrong:
                yield UnreadableRecord(kind, name, reason_of(wrong))


def _leases(redis: TextRedis) -> Iterator[UnreadableRecord]:
    for host, *lease in leases_of_all_hosts(redis):
        try:
            lease_from(host, *lease)
        except UNREADABLE as wrong:
            yield UnreadableRecord("port lease", f"{host}:{lease[0]}", reason_of(wrong))


def _check_instance(name: str, fields: Mapping[str, str]) -> None:
    if instance_from(fields).id != InstanceId(name):
        raise ValueError("it is another instance's")


def _check_operation(name: str, fields: Mapping[str, str]) -> None:
    operation_from(OperationId(name), fields)


def _check_service(name: str, record: str) -> None:
    ServiceId(name)
    SignedText.model_validate_json(record)


def _check_allocations(_: str, allocations: Mapping[str, str]) -> None:
    for service, text in allocations.items():
        ServiceId(service)
        Allocation.parse(text)
