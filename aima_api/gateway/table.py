"""The routing table: instances that serve, by service, read whole from Redis and replaced as one.

It is a snapshot, read after each event that may change it, after each reconnect, and by polling. While Redis
does not answer, the last one stays in use; while Redis has lost its data, so do the instances that it lacks. The
balancer's passive health decides what of it is reachable.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import NamedTuple

import structlog

from aima_api.access.aliases import Alias, AliasStore, NameResolver, Pools
from aima_api.events.hub import EventHub
from aima_api.gateway.balancer import Backend, EngineTarget
from aima_core.domain.services import Desired, Instance
from aima_core.errors import BrokerUnavailable, ModelNotFound, NoInstanceReady
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.readable import replies
from aima_core.store.services import ServiceStore

RELIST_INTERVAL = timedelta(seconds=2)
SETTLE_DELAY = timedelta(milliseconds=50)
"""After an event: a start has several at once."""
NEAREST = 3

_log = structlog.get_logger()


class RoutingRecords(NamedTuple):
    """What Redis holds."""

    epoch: str | None
    instances: Sequence[Instance]
    """On hosts that are not drained."""
    live: frozenset[str]
    """Hosts that send heartbeats."""
    aliases: Sequence[Alias] = ()


def read_listing(redis: TextRedis, services: ServiceStore, aliases: AliasStore) -> RoutingRecords:
    """Raises BrokerUnavailable."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.get(keys.EPOCH)
        pipe.zrange(keys.INSTANCES, 0, -1)
        pipe.zrange(keys.HOSTS_SEEN, 0, -1, withscores=True)
        pipe.hgetall(keys.DRAINED)
        pipe.time()
        epoch, ids, seen, drained, (seconds, _) = replies(pipe)
    dead = keys.HOST_DEAD.total_seconds()
    live = frozenset(host for host, at in seen or () if abs(seconds - at) < dead)
    instances = [each for each in services.instances(ids or ()) if each.host not in (drained or {})]
    return RoutingRecords(epoch, instances, live, aliases.all().items)


@dataclass(frozen=True)
class ModelRoute:
    """Where requests for a model go: pools of services, the later ones where the earlier have nothing usable."""

    model: str
    pools: Pools


class Table:
    """Used in the event loop only."""

    def __init__(
        self,
        target_of: Callable[[Instance], EngineTarget | None],
        *,
        keep_for: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keep_for` limits how long an instance is kept that Redis has lost together with its data."""
        self._target_of = target_of
        self._keep_for = keep_for.total_seconds()
        self._clock = clock
        self._epoch: str | None = None
        self._lost_at: float | None = None
        self._known: dict[str, Backend] = {}
        """Backends that serve or have requests in flight, by instance."""
        self._by_service: Mapping[str, Sequence[Backend]] = {}
        self._by_model: Mapping[str, tuple[str, ...]] = {}
        self._resolver = NameResolver()
        self._states: Mapping[str, str] = {}
        """Of services that should run: what their instances do."""
        self.is_read = False

    @property
    def backends(self) -> list[Backend]:
        return [backend for backends in self._by_service.values() for backend in backends]

    def serving(self, service: str) -> Sequence[Backend]:
        return self._by_service.get(service, ())

    def names(self) -> list[str]:
        """The names of served models, in order: aliases, model ids and service ids."""
        aliases = [
            each.name for each in self._resolver.aliases if self.services_of(each.name).keys() & self._by_service
        ]
        return sorted({*aliases, *self._by_model, *self._by_service})

    def services_of(self, name: str) -> Mapping[str, str]:
        """All services that may answer to the name, with their model ids; empty for an unknown one."""
        alias = next((each for each in self._resolver.aliases if each.name == name), None)
        if alias is not None:
            found: Iterable[str] = (*alias.targets, *alias.fallback)
        elif name in self._by_service or name in self._states:
            found = (name,)
        else:
            found = self._by_model.get(name.lower(), ())
        return {service: service.split("-", 2)[2] for service in found}

    def route(self, model: str) -> ModelRoute:
        """Raises ModelNotFound; NoInstanceReady for a service that starts or restarts; BrokerUnavailable at first."""
        if pools := self._resolver.resolve(model, services=self._by_service, models=self._by_model):
            return ModelRoute(model, pools)
        if not self.is_read:
            raise BrokerUnavailable(detail="this gateway has not read yet what is served.")
        for service, state in self._states.items():
            if model.lower() in (service, service.split("-", 2)[2]):
                raise NoInstanceReady(model=model, service=service, why=state, wait=5)
        near = get_close_matches(model.lower(), self.names(), NEAREST, cutoff=0.4)
        raise ModelNotFound(model=repr(model), nearest=", ".join(near) or "nothing is served")

    def replace(self, listing: RoutingRecords) -> None:
        """Instances that no longer serve get no new requests; requests in flight continue."""
        self._note_epoch(listing.epoch)
        fresh = not self.is_read
        listed = {str(each.id): each for each in listing.instances}
        serving = {id: backend for id, each in listed.items() if (backend := self._backend(each, fresh=fresh))}
        if self._lost_at is not None:
            serving |= {id: each for id, each in self._known.items() if id not in listed and not each.leaving}
        for id, backend in self._known.items():
            backend.leaving = serving.get(id) is not backend
        for id, backend in serving.items():
            backend.live = id.partition("@")[2] in listing.live
        self._known = {id: each for id, each in self._known.items() if each.in_flight} | serving
        by_service, by_model = defaultdict[str, list[Backend]](list), defaultdict[str, dict[str, None]](dict)
        for _, backend in sorted(serving.items()):
            by_service[backend.service].append(backend)
            by_model[backend.model][backend.service] = None
        self._by_service = dict(by_service)
        self._by_model = {model: tuple(services) for model, services in by_model.items()}
        self._states = _states(listed.values(), serving)
        if self._lost_at is None:
            self._resolver.replace(listing.aliases)
        self.is_read = True

    def _note_epoch(self, epoch: str | None) -> None:
        if self._epoch is None or epoch == self._epoch:
            self._epoch, self._lost_at = epoch, None
        elif self._lost_at is None:
            self._lost_at = self._clock()
            _log.warning("routing table kept: Redis has lost its data", instances=len(self._known))
        elif self._clock() - self._lost_at > self._keep_for:
            self._epoch, self._lost_at = epoch, None

    def _backend(self, instance: Instance, *, fresh: bool) -> Backend | None:
        """The backend of an instance that serves: the known one, unless its engine or the way to it has changed."""
        if not instance.serving or instance.desired is not Desired.RUNNING:
            return None
        if (target := self._target_of(instance)) is None:
            return None
        version = f"{instance.runs} {instance.since.isoformat()} {target.url}"
        known = self._known.get(instance.id)
        if known is not None and known.version == version:
            known.serves, known.names = frozenset(instance.serves), instance.names
            return known
        return Backend(
            str(instance.id),
            target,
            serves=instance.serves,
            names=instance.names,
            model=str(instance.model or instance.id.service.model),
            version=version,
            since=float("-inf") if fresh else self._clock(),  # a gateway that starts knows nothing of their age
        )


def _states(instances: Iterable[Instance], serving: Mapping[str, Backend]) -> Mapping[str, str]:
    """What the instances of services do that should run, where none serves."""
    states = defaultdict[str, list[str]](list)
    for each in instances:
        if each.desired is Desired.RUNNING:
            states[each.id.service].append(f"{each.state} on {each.host}")
    served = {backend.service for backend in serving.values()}
    return {service: ", ".join(each) for service, each in states.items() if service not in served}


class TableKeeper:
    """Reads the table in the background."""

    def __init__(
        self, table: Table, hub: EventHub, redis: TextRedis, aliases: AliasStore, *, changed: Callable[[], None]
    ) -> None:
        self._table = table
        self._hub = hub
        self._redis = redis
        self._services = ServiceStore(redis)
        self._aliases = aliases
        self._changed = changed
        self.redis_answers = False

    async def run(self) -> None:
        """Until cancelled. A reconnect is a gap in the subscription, and wakes it like an event."""
        with self._hub.subscribed(None) as events:
            while True:
                await self.read()
                await events.wait(RELIST_INTERVAL)
                await asyncio.sleep(SETTLE_DELAY.total_seconds())
                events.take()

    async def read(self) -> None:
        try:
            listing = await asyncio.to_thread(read_listing, self._redis, self._services, self._aliases)
            self._table.replace(listing)
        except BrokerUnavailable as outage:
            if self.redis_answers:
                _log.warning("routing table kept: Redis unavailable", reason=str(outage))
            self.redis_answers = False
            return
        except Exception:  # noqa: BLE001 the error boundary of the loop: without it, the table is never read again
            _log.exception("routing table not read")
            return
        self.redis_answers = True
        self._changed()
