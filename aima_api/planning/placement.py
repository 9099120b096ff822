"""Where an operation is sent: to a host by name, or to the class of hosts that can run the engine.

The queue is the scheduler: for one instance with no host named, this names a route and the workers compete for it.
What a host lacks only now is waited for, with the reason; what it will never have is refused.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from redis.exceptions import LockError

from aima_core.domain.catalog import Engine
from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName, Route, ServiceId
from aima_core.domain.operations import StartService
from aima_core.domain.resources import Allocation, ResourceRequest, resources_of
from aima_core.errors import InvalidRequest, PortOutOfRange, RequirementsNotMet, UnknownHost
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.scheduling.feasibility import Obstacle, PlacementRequirements, describe, find_obstacles, permanent
from aima_core.scheduling.pending import explain, join_with_and
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore

ASKED_AT_ONCE = 20
"""Hosts whose room is looked at in one round trip."""


@dataclass(frozen=True)
class Target:
    route: Route
    reason: str | None = None
    """Why it is to wait there; None when a host would take it on now."""
    routes: tuple[Route, ...] = ()
    """All that would do, the best first; empty where a host is named."""

    @property
    def host(self) -> HostName | None:
        return self.route.host


@dataclass(frozen=True)
class Sought:
    """What a place is sought for."""

    what: str
    """Such as the engine's name."""
    wanted: PlacementRequirements


def sought_for(command: StartService) -> Sought:
    engine = command.engine
    wanted = PlacementRequirements(
        routes=routes_of(engine),
        resources=resources_of(engine, command.model),
        service=command.service,
        images=engine.images,
        image_size=engine.image_size,
        native=engine.native is not None,
        port=command.port,
    )
    return Sought(engine.name, wanted)


def image_sought(images: Sequence[str], *, engine: Engine | None = None) -> Sought:
    routes = routes_of(engine) if engine else ()
    size = engine.image_size if engine else None
    return Sought(
        f"image {images[0]}", PlacementRequirements(routes, ResourceRequest(), images=tuple(images), image_size=size)
    )


def routes_of(engine: Engine) -> tuple[Route, ...]:
    """The classes of hosts that can run it, in the order of its platforms."""
    needs = engine.requires
    return tuple(Route(f"{needs.accelerator}.{platform.removeprefix('linux/')}") for platform in needs.platforms)


class Placement:
    """The hosts as they are at one moment. Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, hosts: HostStore, allocations: AllocationStore) -> None:
        self._hosts = {host.name: host for host in hosts.all()}
        self._allocations = allocations
        self._held: dict[HostName, dict[ServiceId, Allocation]] = {}

    def by_name(self, names: Iterable[HostName]) -> list[Target]:
        """These hosts, whatever they can. Raises UnknownHost for a name that was never announced."""
        hosts = [self.host(name) for name in dict.fromkeys(names)]
        return [Target(Route.to_host(host.name), reason=_away(host)) for host in hosts]

    def left(self, wanted: Iterable[HostName], places: Sequence[Target]) -> list[Target]:
        """Of the hosts where an instance is wanted, those whose place others take.

        Where a class of hosts is chosen from, one that has it and works takes it on again by itself.
        """
        chosen = {place.host for place in places}
        others = [self._hosts[name] for name in wanted if name in self._hosts and name not in chosen]
        return self.by_name(host.name for host in others if None not in chosen or not _answers(host))

    def named(self, names: Iterable[HostName], sought: Sought) -> list[Target]:
        """All of them or none. Raises UnknownHost, PortOutOfRange, RequirementsNotMet for those that never will do."""
        hosts = [self.host(name) for name in dict.fromkeys(names)]
        for host in hosts:
            _check_port(host, sought.wanted.port)
        against = self.against(sought.wanted, hosts)
        if refused := {name: permanent(reasons) for name, reasons in against.items() if permanent(reasons)}:
            raise _refusal(sought.what, refused, among=len(hosts))
        return [_at(host, against[host.name]) for host in hosts]

    def replicas(self, count: int, sought: Sought, *, known: Collection[HostName] = ()) -> list[Target]:
        """So many distinct live hosts that can: those that have it already, then those with the most room now.

        Raises InvalidRequest with every host and why not, if there are too few.
        """
        against = self.against(sought.wanted)
        able = [host for name, host in self._hosts.items() if _works(host) and not permanent(against[name])]
        if len(able) < count:
            raise _too_few(count, len(able), sought, {name: why for name, why in against.items() if why})
        able.sort(key=lambda host: (host.name not in known, bool(against[host.name]), -self._spare(host), host.name))
        return [_at(host, against[host.name]) for host in able[:count]]

    def one(self, sought: Sought, *, known: Iterable[HostName] = ()) -> Target:
        """The host that has it already, else the first route on which a live host listens that can, else the first."""
        for name in known:
            if name in self._hosts and not self._why_not(self._hosts[name], sought.wanted):
                return Target(Route.to_host(name))
        listening = self.listening(sought.wanted.routes)
        _check_port_on(listening, sought.wanted.port)
        able = [host for host in listening if _works(host) and not permanent(find_obstacles(host, sought.wanted, {}))]
        found = (route for route in sought.wanted.routes if any(route in host.routes for host in able))
        route = next(found, sought.wanted.routes[0])
        reason = None if self._has_room_now(able, sought.wanted) else self._pending_reasons(listening, sought.wanted)
        return Target(route, reason=reason, routes=sought.wanted.routes)

    def each_on(self, routes: Sequence[Route], sought: Sought) -> list[Target]:
        """Every live host that listens to one of the routes; where there is none, the first route, to wait there."""
        if live := [host for host in self.listening(routes) if host.live]:
            against = self.against(sought.wanted, live)
            return [_at(host, against[host.name]) for host in live]
        return [Target(routes[0], reason=_unroutable(routes), routes=tuple(routes))]

    def only_host(self) -> HostName:
        """The one live host there is. Raises InvalidRequest where there are several or none."""
        live = [host.name for host in self._hosts.values() if host.live]
        if len(live) != 1:
            raise InvalidRequest(
                detail=f"It was not said where, and there are {len(live)} live hosts.",
                remedy="Name `hosts` or a `route`, such as `cpu.amd64`; `aima host list` shows them.",
            )
        return live[0]

    def host(self, name: HostName) -> Host:
        """Raises UnknownHost."""
        if name not in self._hosts:
            raise UnknownHost(host=name)
        return self._hosts[name]

    def listening(self, routes: Iterable[Route]) -> list[Host]:
        """The hosts, live or not, that listen to any of the routes."""
        asked = set(routes)
        return [host for host in self._hosts.values() if asked & set(host.routes)]

    def against(
        self, wanted: PlacementRequirements, hosts: Iterable[Host] | None = None
    ) -> dict[HostName, list[Obstacle]]:
        """What speaks against each of the hosts, or against each of all."""
        asked = list(self._hosts.values() if hosts is None else hosts)
        if wanted.service is not None:
            self._learn_what_is_held([host.name for host in asked])
        return {host.name: find_obstacles(host, wanted, self._held.get(host.name, {})) for host in asked}

    def _why_not(self, host: Host, wanted: PlacementRequirements) -> list[Obstacle]:
        return self.against(wanted, [host])[host.name]

    def _has_room_now(self, able: list[Host], wanted: PlacementRequirements) -> bool:
        """Whether any of them has; asked of a few at a time, since most often one of the first does."""
        shuffled = random.sample(able, len(able))
        batches = (shuffled[at : at + ASKED_AT_ONCE] for at in range(0, len(able), ASKED_AT_ONCE))
        return any(not all(self.against(wanted, batch).values()) for batch in batches)

    def _pending_reasons(self, listening: list[Host], wanted: PlacementRequirements) -> str:
        if not any(host.live for host in listening):
            return _unroutable(wanted.routes)
        against = self.against(wanted, listening)
        why, routes = explain(against), " or ".join(wanted.routes)
        if all(map(permanent, against.values())):
            return f"No host of {routes} can run it: {why}. It starts when one joins that can."
        return f"No host of {routes} has room now: {why}."

    def _learn_what_is_held(self, names: Iterable[HostName]) -> None:
        if unknown := [name for name in names if name not in self._held]:
            self._held |= self._allocations.held_on(unknown)

    def _spare(self, host: Host) -> int:
        return host.memory - host.memory_reserve - sum(each.memory for each in self._held[host.name].values())


def _at(host: Host, against: Sequence[Obstacle]) -> Target:
    """The host, which may have to be waited for."""
    reason = f"{describe(host, against)}; it goes on when that has changed." if against else None
    return Target(Route.to_host(host.name), reason=_away(host) or reason)


def _away(host: Host) -> str | None:
    return None if host.live else f"{host.name} is not live; it goes on when {host.name} is back."


def _works(host: Host) -> bool:
    return _answers(host) and not host.drained


def _answers(host: Host) -> bool:
    return host.live and host.runtime_answers


def _unroutable(routes: Sequence[Route]) -> str:
    return f"No live host listens to {' or '.join(routes)}; it starts when one joins."


def _refusal(what: str, refused: dict[HostName, list[Obstacle]], *, among: int) -> RequirementsNotMet:
    names = list(refused)
    why = f"{explain(refused)}." if len(names) > 1 else f"it {explain(refused).removeprefix(f'{names[0]} ')}."
    nobody = " Nothing was submitted, for the other hosts neither." if among > len(names) else ""
    return RequirementsNotMet(host=join_with_and(names), engine=what, detail=why + nobody)


def _too_few(count: int, able: int, sought: Sought, against: dict[HostName, list[Obstacle]]) -> InvalidRequest:
    why = f" {explain(against)}." if against else " No other host has ever announced itself."
    return InvalidRequest(
        detail=f"{count} replicas were asked for, and {able} live host(s) can run {sought.what}.{why}",
        remedy="Ask for fewer, name the hosts, or bring more hosts up: `aima host list`.",
    )


def _leases(host: Host, port: int | None) -> bool:
    return port is None or host.ports[0] <= port <= host.ports[1]


def _check_port(host: Host, port: int | None) -> None:
    if not _leases(host, port):
        raise PortOutOfRange(port=port, first=host.ports[0], last=host.ports[1], host=host.name)


def _check_port_on(listening: Sequence[Host], port: int | None) -> None:
    """Refuse a port that none of those who listen leases."""
    live = [host for host in listening if host.live]
    if live and not any(_leases(host, port) for host in live):
        _check_port(live[0], port)


AT_MOST = timedelta(seconds=2)
"""For one turn: a node may have died in it."""
WAITS = AT_MOST + timedelta(seconds=0.5)
ASKS_EVERY = timedelta(milliseconds=20)


class PlacementLocks:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    @contextmanager
    def holding(self, services: Iterable[ServiceId]) -> Iterator[None]:
        """While it lasts, nobody else chooses hosts for these."""
        with ExitStack() as locks:
            for service in sorted(services):
                locks.enter_context(self._with(service))
            yield

    @contextmanager
    def _with(self, service: ServiceId) -> Iterator[None]:
        lasts, pause, waits = AT_MOST.total_seconds(), ASKS_EVERY.total_seconds(), WAITS.total_seconds()
        turn = self._redis.lock(keys.turn(service), timeout=lasts, sleep=pause, blocking_timeout=waits)
        turn.acquire()
        try:
            yield
        finally:
            with suppress(LockError):  # it has run out meanwhile
                turn.release()
