"""Tolerant reads: a record that AIMA did not write is skipped and logged once, so that it disturbs no other record."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import structlog

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import HostName, InstanceId, OperationId, ServiceId, SignedText
from aima_core.domain.resources import Allocation
from aima_core.domain.services import Desired, Instance
from aima_core.errors import AimaError
from aima_core.redis import keys
from aima_core.redis.connection import is_bad_data, translated
from aima_core.redis.interface import TextPipeline, TextRedis

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError, AimaError)
"""What parsing raises for values that AIMA does not write; an id that is none is an AimaError."""
_LENGTH = 200
_T = TypeVar("_T")

_log = structlog.get_logger()


class UnreadableRecord(NamedTuple):
    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name[:_LENGTH]} ({self.reason})"


def readable(kind: str, name: str, parse: Callable[..., _T], *args: Any) -> _T | None:
    """The record as parsed from these values; None, with a log line, if it is unreadable."""
    try:
        return parse(*args)
    except UNREADABLE as wrong:
        _log_once(kind, name, reason_of(wrong))
        return None


def replies(pipe: TextPipeline) -> list[Any]:
    """The replies to the commands of a pipeline; None for a key of another type. Raises BrokerUnavailable."""
    return [_reply(each) for each in pipe.execute(raise_on_error=False)]


def reason_of(wrong: Exception) -> str:
    """One line."""
    return (str(wrong).splitlines() or [""])[0][:_LENGTH] or type(wrong).__name__


@lru_cache(maxsize=1024)
def _log_once(kind: str, name: str, reason: str) -> None:
    _log.warning("unreadable record skipped", kind=kind, name=name[:_LENGTH], reason=reason)


def _reply(reply: Any) -> Any:
    if not isinstance(reply, Exception):
        return reply
    if is_bad_data(reply):
        return None
    raise translated(reply)


def instance_from(fields: Mapping[str, Any]) -> Instance:
    return Instance.model_validate_json(
        # Fence and desired state are fields of their own, which the scripts compare.
        fields["record"][:-1] + f',"fence":{fields["fence"]},"desired":"{Desired(fields["desired"])}"}}'
    )


# The report -------------------------------------------------------------------------------------------------------


def find_unreadable(
    redis: TextRedis, operation_from: Callable[[OperationId, Mapping[str, str]], object]
) -> Iterator[UnreadableRecord]:
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

    def check_operation(name: str, fields: Mapping[str, str]) -> None:
        operation_from(OperationId(name), fields)

    yield from _each(redis, "operation", operations, keys.operation, check_operation)
    yield from _each(redis, "allocations on", list(hosts or ()), keys.held, _check_allocations)


def _hosts(hosts: Mapping[str, str], sessions: Mapping[str, str]) -> Iterator[UnreadableRecord]:
    for name, text in hosts.items():
        try:
            identity = check_facts(name, text).identity
        except UNREADABLE as wrong:
            yield UnreadableRecord("host", name, reason_of(wrong))
            continue
        holder = sessions.get(name, identity).partition(" ")[0]
        if holder != identity:
            yield UnreadableRecord("session of host", name, f"another identity, {holder[:_LENGTH]!r}, holds its name")


def check_facts(name: str, text: str) -> HostFacts:
    """Raises ValueError if the facts are another host's."""
    facts = HostFacts.model_validate_json(text)
    if facts.name != HostName(name):
        raise ValueError(f"its facts are those of {facts.name}")
    return facts


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


def _check_instance(name: str, fields: Mapping[str, str]) -> None:
    if instance_from(fields).id != InstanceId(name):
        raise ValueError("it is another instance's")


def _check_service(name: str, record: str) -> None:
    ServiceId(name)
    SignedText.model_validate_json(record)


def _check_allocations(_: str, allocations: Mapping[str, str]) -> None:
    for service, text in allocations.items():
        ServiceId(service)
        Allocation.parse(text)
