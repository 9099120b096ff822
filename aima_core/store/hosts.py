"""Hosts in Redis: facts, heartbeats and membership, by Redis' own clock.

A host without a heartbeat for HOST_DEAD is not live; its worker joins again when Redis has lost it.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from aima_core.domain.hosts import AssignedLabels, Host, HostFacts, HostUsage
from aima_core.domain.ids import HostName, Route, SignedText
from aima_core.errors import CorruptData, HostLives, HostNameTaken, IdentityTaken, UnknownHost
from aima_core.queue.notifier import stop_queue
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, in_ms
from aima_core.store.readable import UNREADABLE, check_facts, readable, reason_of, replies

_EARLIEST = 1.0
"""Of a heartbeat that no worker has sent, such as one in the future."""
_BESIDE = (keys.DRAINED, keys.DROPPED, keys.HOST_LABELS)
"""Hashes of all hosts beside their facts."""
_UNASSIGNED = AssignedLabels()
LEFT = 0.0
"""The last heartbeat of a host whose worker has shut down."""


class Membership(StrEnum):
    OK = "ok"
    TAKEN = "taken"
    """Another worker has the name now."""
    UNKNOWN = "unknown"
    """Redis has lost the host, which must join again."""


class HeartbeatReply(NamedTuple):
    membership: Membership
    drained: bool
    epoch: str
    """A new one means that Redis has lost its data."""


class HostStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def join(self, host: HostName, *, identity: str, session: str) -> None:
        """Registers a worker under its name; one restarted in the same session takes it back at once.

        Raises HostNameTaken or IdentityTaken if a live worker has it.
        """
        where = [keys.HOSTS_SEEN, keys.HOSTS_SESSIONS, keys.HOSTS_IDENTITIES]
        taken, *other = self._run("hosts/join", where, host, identity, session, in_ms(keys.HOST_DEAD))
        if taken == "name":
            raise HostNameTaken(host=host, other=other[0])
        if taken == "identity":
            raise IdentityTaken(host=host, identity=identity, other=other[0])

    def announce(self, facts: HostFacts) -> None:
        self._redis.hset(keys.HOSTS, facts.name, facts.model_dump_json())

    def heartbeat(self, host: HostName, *, identity: str, session: str) -> HeartbeatReply:
        """Records a heartbeat and returns what has changed for the host."""
        where = [keys.HOSTS_SEEN, keys.HOSTS_SESSIONS, keys.DRAINED, keys.EPOCH]
        session = f"{identity} {session}"
        membership, drained, epoch = self._run("hosts/heartbeat", where, host, session, uuid.uuid4().hex)
        return HeartbeatReply(Membership(membership), drained=bool(drained), epoch=epoch)

    def leave(self, host: HostName) -> None:
        """Records that the host's worker has shut down: the host is not live from now on."""
        self._redis.zadd(keys.HOSTS_SEEN, {host: LEFT})

    def report_usage(self, usage: HostUsage) -> None:
        """Records what the host uses now, until USAGE_TTL has passed."""
        self._redis.set(keys.usage(usage.host), usage.model_dump_json(), px=in_ms(keys.USAGE_TTL))

    def usage_of(self, hosts: Sequence[HostName]) -> dict[HostName, HostUsage]:
        """In one round trip; without hosts that have reported none lately, or an unreadable one."""
        texts = self._redis.mget([keys.usage(host) for host in hosts]) if hosts else []
        found = (
            readable("usage of host", host, _usage, host, text) for host, text in zip(hosts, texts, strict=True) if text
        )
        return {usage.host: usage for usage in found if usage}

    def count_dropped(self, host: HostName, number: int) -> None:
        """Counts malformed messages that the host has dropped; a retry after a lost reply may count duplicates."""
        with self._redis.pipeline() as pipe:
            pipe.hincrby(keys.DROPPED, host, number)
            pipe.expire(keys.DROPPED, keys.DROPPED_TTL)
            pipe.execute()

    def drain(self, host: HostName) -> None:
        """Excludes the host from starts. Raises UnknownHost."""
        since = self.get(host).drained_since or datetime.now(UTC)
        self._redis.hset(keys.DRAINED, host, since.isoformat())

    def resume(self, host: HostName) -> None:
        """Admits starts again. Raises UnknownHost."""
        self.get(host)
        self._redis.hdel(keys.DRAINED, host)

    def assign_labels(self, host: HostName, assigned: AssignedLabels) -> None:
        """Replaces the assigned labels atomically. Raises UnknownHost."""
        self.get(host)
        if assigned == _UNASSIGNED:
            self._redis.hdel(keys.HOST_LABELS, host)
        else:
            self._redis.hset(keys.HOST_LABELS, host, assigned.model_dump_json())

    def certify(self, host: HostName, certificate: SignedText) -> None:
        self._redis.hset(keys.HOST_CERTIFICATES, host, certificate.model_dump_json())

    def certificate_of(self, host: HostName) -> SignedText | None:
        """As it is in Redis, unverified; None without one."""
        text = self._redis.hget(keys.HOST_CERTIFICATES, host)
        return readable("certificate of host", host, SignedText.model_validate_json, text) if text else None

    def certificates(self) -> dict[str, SignedText]:
        """As they are in Redis, unverified, by host; without unreadable ones."""
        found = (
            (host, readable("certificate of host", host, SignedText.model_validate_json, text))
            for host, text in self._redis.hgetall(keys.HOST_CERTIFICATES).items()
        )
        return {host: certificate for host, certificate in found if certificate}

    def forget(self, host: HostName) -> None:
        """Deletes every record of the host, and its queued messages. Raises UnknownHost, HostLives."""
        queues = [Route.to_host(host), stop_queue(host)]
        where = [keys.HOSTS, keys.HOSTS_SEEN, keys.HOSTS_SESSIONS, keys.HOSTS_IDENTITIES, keys.DRAINED]
        where += [keys.HOST_LABELS, keys.DROPPED, keys.HOST_CERTIFICATES]
        where += [keys.SERVICES_AT, keys.INSTANCES, keys.ACTIVE, keys.ROUTES]
        where += [keys.queue("unacked"), keys.queue("unacked_index")]
        where += [keys.instances_on(host), keys.ports(host), keys.last_ports(host)]
        where += [keys.held(host), keys.slots(host), keys.asked(host), keys.usage(host)]
        where += [key for queue in queues for key in (keys.queue(queue), *keys.celery_s_own(queue))]
        prefixes = [keys.port_prefix(host), keys.instance, keys.lines, keys.last_lines]
        prefixes += [keys.operation, keys.claim]
        match self._run("hosts/forget", where, host, in_ms(keys.HOST_DEAD), *queues, *prefixes):
            case "live":
                raise HostLives(host=host)
            case "unknown":
                raise UnknownHost(host=host)

    def all(self) -> list[Host]:
        """By name, live or not; without unreadable ones."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.HOSTS)
            pipe.zrange(keys.HOSTS_SEEN, 0, -1, withscores=True)
            for each in _BESIDE:
                pipe.hgetall(each)
            pipe.time()
            facts, scores, *beside, time = replies(pipe)
        seen, now = dict(scores or ()), _seconds(time)
        found = (
            readable(
                "host", name, _host, name, text, seen.get(name, 0.0), now, *((it or {}).get(name) for it in beside)
            )
            for name, text in sorted((facts or {}).items())
        )
        return [host for host in found if host]

    def get(self, host: HostName) -> Host:
        """Raises UnknownHost, CorruptData."""
        if (text := self._redis.hget(keys.HOSTS, host)) is None:
            raise UnknownHost(host=host)
        seen = self._redis.zscore(keys.HOSTS_SEEN, host) or 0.0
        beside = [self._redis.hget(each, host) for each in _BESIDE]
        try:
            return _host(host, text, seen, _seconds(self._redis.time()), *beside)
        except UNREADABLE as wrong:
            raise CorruptData(detail=f"the record of host {host}: {reason_of(wrong)}.") from wrong

    def is_live(self, host: HostName) -> bool:
        """Whether its heartbeats arrive, even if its record is unreadable."""
        return _is_live(self._redis.zscore(keys.HOSTS_SEEN, host) or 0.0, _seconds(self._redis.time()))


def _usage(host: HostName, text: str) -> HostUsage:
    """Raises ValueError if it is another host's."""
    usage = HostUsage.model_validate_json(text)
    if usage.host != host or any(id.host != host for id in usage.instances):
        raise ValueError("it names another host")
    return usage


def _seconds(time: tuple[int, int]) -> float:
    return float(time[0]) + float(time[1]) / 1e6


def _is_live(seen: float, now: float) -> bool:
    """A heartbeat in the future is forged: the host would be live for ever."""
    return abs(now - seen) < keys.HOST_DEAD.total_seconds()


def _host(
    name: str, text: str, seen: float, now: float, drained: str | None, dropped: str | None, labels: str | None
) -> Host:
    if seen != LEFT and not _EARLIEST <= seen <= now + keys.HOST_DEAD.total_seconds():
        seen = _EARLIEST
    announced = _announced(name, text)
    assigned = _assigned(name, labels) if labels else _UNASSIGNED
    return announced.with_valid(
        labels={**announced.labels, **assigned.labels},
        assigned=assigned,
        live=_is_live(seen, now),
        left=seen == LEFT,
        seen_at=datetime.fromtimestamp(seen, UTC),
        silent_for=max(0.0, now - seen),
        drained_since=(_moment(drained) or datetime.fromtimestamp(now, UTC)) if drained else None,
        messages_dropped=int(dropped) if dropped and dropped.isdecimal() else 0,
    )


def _moment(text: str) -> datetime | None:
    """None for another writer's: the host is drained nevertheless."""
    return readable("drained host", text, lambda: datetime.fromisoformat(text).astimezone())


@lru_cache(maxsize=2048)
def _assigned(name: str, text: str) -> AssignedLabels:
    """None of another writer's."""
    return readable("labels of host", name, AssignedLabels.model_validate_json, text) or _UNASSIGNED


@lru_cache(maxsize=2048)
def _announced(name: str, text: str) -> Host:
    """The announced facts, as of a host that is not live; cached, since they seldom change."""
    facts = check_facts(name, text)
    return Host.model_construct(**dict(facts), live=False, seen_at=datetime.fromtimestamp(LEFT, UTC))
