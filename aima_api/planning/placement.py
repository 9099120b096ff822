"""Placement: chooses the hosts, or the queue of a class of hosts, to which an operation is sent; locks for replicas.

The queue is the scheduler: a start of one instance with no host named goes to a route, and the workers of that route
compete for it. Transient obstacles leave the operation pending with the reason; permanent ones refuse the request.

Model locality is a score and never a filter: among hosts that are equally feasible now, those with the fewest bytes to
fetch come first, then those with the most free memory.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from redis.exceptions import LockError, NoScriptError

from aima_core.domain.catalog import Engine
from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName, Route, ServiceId
from aima_core.domain.resources import Held
from aima_core.domain.units import counted
from aima_core.errors import InvalidRequest, NoImagesHere, PortOutOfRange, RequirementsNotMet, UnknownHost
from aima_core.redis import keys
from aima_core.redis.interface import TextLock, TextRedis
from aima_core.scheduling.feasibility import (
    Obstacle,
    PlacementRequirements,
    allocation_for,
    describe,
    find_obstacles,
    has_what_is_never_pulled,
    locality,
    permanent,
)
from aima_core.scheduling.pending import explain, join_with_and
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore

Obstacles = dict[HostName, list[Obstacle]]

_NONE = Held()
HOSTS_PER_READ = 20
"""Hosts whose allocations are read in one round trip."""


@dataclass(frozen=True)
class Target:
    """The queue that an operation is put on."""

    route: Route
    reason: str | None = None
    """Why the operation will be pending; None if a host would claim it now."""
    routes: tuple[Route, ...] = ()
    """All routes whose workers may claim it, best first; empty for a named host."""
    first: HostName | None = None
    """Of a class of hosts: the one that is notified first, since it has the model, or most of it."""

    @cached_property
    def host(self) -> HostName | None:
        return self.route.host


def routes_of(engine: Engine) -> tuple[Route, ...]:
    """The classes of hosts that can run the engine, in the order of its platforms."""
    required = engine.requires
    return tuple(Route(f"{required.accelerator}.{platform.removeprefix('linux/')}") for platform in required.platforms)


class Placement:
    """A snapshot of all hosts, their allocations read on demand. Every call may raise BrokerUnavailable."""

    def __init__(self, hosts: HostStore, allocations: AllocationStore) -> None:
        self._hosts = {host.name: host for host in hosts.all()}
        self._allocations = allocations
        self._allocated: dict[HostName, Held] = {}
        self._last: tuple[PlacementRequirements | None, Obstacles] = None, {}
        """The last obstacles of all hosts: steps and previews compute the same ones."""

    def for_stop(self, names: Iterable[HostName]) -> list[Target]:
        """These hosts, whatever their capacity. Raises UnknownHost."""
        hosts = [self.host(name) for name in dict.fromkeys(names)]
        return [Target(Route.to_host(host.name), reason=_offline(host)) for host in hosts]

    @property
    def hosts(self) -> list[Host]:
        """By name, live or not."""
        return list(self._hosts.values())

    def known(self, names: Iterable[HostName]) -> list[HostName]:
        """Without hosts that were forgotten, or that only a forged record names."""
        return [name for name in names if name in self._hosts]

    def replaced(self, desired: Iterable[HostName], targets: Sequence[Target]) -> list[Target]:
        """Stops for the hosts where an instance is desired that the targets replace.

        If one target is a class of hosts, a host that has the instance and works claims it again by itself.
        """
        chosen = {target.host for target in targets}
        others = [self._hosts[name] for name in desired if name in self._hosts and name not in chosen]
        return self.for_stop(host.name for host in others if None not in chosen or not _answers(host))

    def on_hosts(self, names: Iterable[HostName], requirements: PlacementRequirements) -> list[Target]:
        """All of these hosts or none. Raises UnknownHost, PortOutOfRange, RequirementsNotMet if one never can."""
        hosts = [self.host(name) for name in dict.fromkeys(names)]
        for host in hosts:
            _check_port([host], requirements.port)
        obstacles = self.obstacles(requirements, hosts)
        if refused := {name: permanent(found) for name, found in obstacles.items() if permanent(found)}:
            raise _refusal(requirements.subject, refused, among=len(hosts))
        return [_target(host, obstacles[host.name]) for host in hosts]

    def replicas(
        self, count: int, requirements: PlacementRequirements, *, current: Collection[HostName] = ()
    ) -> list[Target]:
        """`count` distinct live hosts: first those with an instance, then those that would start it now, with the
        fewest bytes to fetch, and with the most free memory.

        Raises InvalidRequest with every host and its obstacles if there are too few.
        """
        obstacles = self.obstacles(requirements)
        able = [host for name, host in self._hosts.items() if _works(host) and not permanent(obstacles[name])]
        if len(able) < count:
            raise _too_few(count, len(able), requirements.subject, obstacles)
        able.sort(key=lambda host: (host.name not in current, *self._preference(host, requirements, obstacles)))
        return [_target(host, obstacles[host.name]) for host in able[:count]]

    def one_instance(self, requirements: PlacementRequirements, *, current: Iterable[HostName] = ()) -> Target:
        """The host that has it already, else the first route with a live host that can run it, else the first route."""
        for name in current:
            if name in self._hosts and not self.obstacles(requirements, [self._hosts[name]])[name]:
                return Target(Route.to_host(name))
        hosts, routes = self._hosts_on(requirements.routes), requirements.routes
        _check_port([host for host in hosts if host.live], requirements.port)
        able = [host for host in hosts if _works(host) and not permanent(find_obstacles(host, requirements, _NONE))]
        has = [host for host in able if has_what_is_never_pulled(host, requirements)]
        weights = requirements.resources.weights
        too_old = weights is not None and weights.name is not None and any(host.stored is None for host in hosts)
        if hosts and (requirements.secrets or too_old or 0 < len(has) < len(able)):
            return self._host_of_route(hosts, requirements)
        route = next((route for route in routes if any(route in host.routes for host in able)), routes[0])
        if not able:
            self.require_able_host(requirements)
        if nearest := self._nearest(able, requirements):
            return Target(route, routes=routes, first=nearest.name)
        reason = None if self._any_free(able, requirements) else self._pending_reason(hosts, requirements)
        return Target(route, reason=reason, routes=routes)

    def require_able_host(self, requirements: PlacementRequirements) -> None:
        """Raises RequirementsNotMet if there are hosts of the routes, and none, live or away, can ever run it."""
        obstacles = self.obstacles(requirements, self._hosts_on(requirements.routes))
        refused = {name: permanent(found) for name, found in obstacles.items()}
        if refused and all(refused.values()):
            raise _refusal(requirements.subject, refused, among=len(refused))

    def every_host(self, routes: Sequence[Route], requirements: PlacementRequirements) -> list[Target]:
        """Every live host of the routes that has images; if there is no live one, the first route, pending.

        Raises NoImagesHere if all of them run native processes.
        """
        if live := [host for host in self._hosts_on(routes) if host.live]:
            if all(host.runtime == "process" for host in live):
                raise NoImagesHere(host=join_with_and([host.name for host in live]))
            live = [host for host in live if host.runtime != "process"]
            obstacles = self.obstacles(requirements, live)
            return [_target(host, obstacles[host.name]) for host in live]
        return [Target(routes[0], reason=_no_live_host(routes), routes=tuple(routes))]

    def only_host(self) -> HostName:
        """The single live host. Raises InvalidRequest if there are several or none."""
        live = [host.name for host in self._hosts.values() if host.live]
        if len(live) != 1:
            raise InvalidRequest(
                detail=f"No host was named, and there are {len(live)} live hosts.",
                remedy="Name `hosts` or a `route`, such as `cpu.amd64`; `aima host list` shows them.",
            )
        return live[0]

    def answers(self, target: Target) -> bool:
        """Whether the target is a live host with an available container engine."""
        return target.host is not None and _answers(self.host(target.host))

    def host(self, name: HostName) -> Host:
        """Raises UnknownHost."""
        if name not in self._hosts:
            raise UnknownHost(host=name)
        return self._hosts[name]

    def obstacles(self, requirements: PlacementRequirements, hosts: Iterable[Host] | None = None) -> Obstacles:
        """The obstacles of each of these hosts, or of all; an empty list for a host that would start it now."""
        if hosts is None and requirements is self._last[0]:
            return self._last[1]
        chosen = list(self._hosts.values() if hosts is None else hosts)
        if requirements.service is not None:
            self.read_allocations(host.name for host in chosen)
        held = self._allocated
        found = {host.name: find_obstacles(host, requirements, held.get(host.name, _NONE)) for host in chosen}
        if hosts is None:
            self._last = requirements, found
        return found

    def read_allocations(self, names: Iterable[HostName]) -> None:
        """Reads in one round trip what was not read before, for several services at once."""
        if unread := [name for name in names if name in self._hosts and name not in self._allocated]:
            self._allocated |= self._allocations.held_on(unread)

    def reserve(self, target: Target, requirements: PlacementRequirements) -> None:
        """Counts the start's resources as allocated from now on in this snapshot; those of a queued start are not.

        For a class of hosts: on the host that has the service, else on the preferred one.
        """
        service, host = requirements.service, self._claimant(target, requirements)
        if service is None or host is None:
            return
        held = self._allocated[host.name]
        wanted = allocation_for(host, requirements.resources, held, service)
        now = held.get(service)  # while a running container is replaced, the larger of both requests is allocated
        most = wanted.memory if now is None else max(wanted.memory, now.memory)
        self._allocated[host.name] = held.replacing(service, wanted._replace(memory=most))
        self._last = None, {}

    def _claimant(self, target: Target, requirements: PlacementRequirements) -> Host | None:
        """The host that would claim the start now; None if it is pending."""
        if target.host:
            return None if target.reason else self.host(target.host)
        hosts, service = self._hosts_on(target.routes), requirements.service
        obstacles = self.obstacles(requirements, hosts)
        return min(
            (host for host in hosts if not obstacles[host.name]),
            key=lambda host: (
                service not in self._allocated[host.name],
                host.name != target.first,
                *self._preference(host, requirements, obstacles),
            ),
            default=None,
        )

    def _host_of_route(self, hosts: Sequence[Host], requirements: PlacementRequirements) -> Target:
        """A host rather than its route, whose other hosts lack the image or a secret: they would claim it, and fail.

        Raises RequirementsNotMet.
        """
        obstacles = self.obstacles(requirements, hosts)
        able = [host for host in hosts if not permanent(obstacles[host.name])]
        if not able:
            refused = {name: permanent(found) for name, found in obstacles.items()}
            raise _refusal(requirements.subject, refused, among=len(hosts))
        best = min(able, key=lambda host: (not _works(host), *self._preference(host, requirements, obstacles)))
        return _target(best, obstacles[best.name])

    def _hosts_on(self, routes: Iterable[Route]) -> list[Host]:
        """The hosts, live or not, whose workers subscribe to any of the routes."""
        accepted = set(routes)
        return [host for host in self._hosts.values() if accepted & set(host.routes)]

    def _nearest(self, able: Sequence[Host], requirements: PlacementRequirements) -> Host | None:
        """The best host that would start it now with less to fetch than others; None if that is all the same.

        The other hosts may still claim it: the first one may be busy, or die before it does.
        """
        if requirements.resources.weights is None:
            return None
        missing = {host.name: locality(host, requirements.resources) for host in able}
        if len(set(missing.values())) < 2:
            return None
        most = max(missing.values())
        nearer = [host for host in able if missing[host.name] < most]
        obstacles = self.obstacles(requirements, nearer)
        free = [host for host in nearer if not obstacles[host.name]]
        return min(free, key=lambda host: self._preference(host, requirements, obstacles), default=None)

    def _any_free(self, able: list[Host], requirements: PlacementRequirements) -> bool:
        """Whether any host has no obstacle now; read in batches, since usually one of the first is free."""
        shuffled = random.sample(able, len(able))
        batches = (shuffled[at : at + HOSTS_PER_READ] for at in range(0, len(able), HOSTS_PER_READ))
        return any(not all(self.obstacles(requirements, batch).values()) for batch in batches)

    def _pending_reason(self, hosts: list[Host], requirements: PlacementRequirements) -> str:
        if not any(host.live for host in hosts):
            return _no_live_host(requirements.routes)
        obstacles = self.obstacles(requirements, hosts)
        why, routes = explain(obstacles), " or ".join(requirements.routes)
        return f"No host of {routes} has capacity now. {why}."

    def _preference(self, host: Host, requirements: PlacementRequirements, obstacles: Obstacles) -> tuple[object, ...]:
        lacks_image = not has_what_is_never_pulled(host, requirements)
        waits = bool(obstacles[host.name])
        return lacks_image, waits, locality(host, requirements.resources), -self._free(host), host.name

    def _free(self, host: Host) -> int:
        return host.memory - host.memory_reserve - self._allocated[host.name].memory


def _target(host: Host, obstacles: Sequence[Obstacle]) -> Target:
    reason = f"{describe(host, obstacles)}; it waits until that changes." if obstacles else None
    return Target(Route.to_host(host.name), reason=_offline(host) or reason)


def _offline(host: Host) -> str | None:
    return None if host.live else f"{host.name} is not live; it waits until {host.name} is back."


def _works(host: Host) -> bool:
    return _answers(host) and not host.drained


def _answers(host: Host) -> bool:
    return host.live and host.runtime_answers


def _no_live_host(routes: Sequence[Route]) -> str:
    return f"No live host listens to {' or '.join(routes)}; it starts when one joins."


def _refusal(subject: str, refused: Obstacles, *, among: int) -> RequirementsNotMet:
    names = list(refused)
    hosts = join_with_and(names)
    nothing = " Nothing was submitted to the other hosts either." if among > len(names) else ""
    detail = f"{explain(refused).removeprefix(f'{hosts}: ')}.{nothing}"
    return RequirementsNotMet(host=hosts, engine=subject, detail=detail)


def _too_few(count: int, able: int, subject: str, obstacles: Obstacles) -> InvalidRequest:
    why = f"{explain(obstacles)}." if any(obstacles.values()) else "There is no other host."
    return InvalidRequest(
        detail=f"{count} replicas were requested, and {counted(able, 'live host')} can run {subject}. {why}",
        remedy="Request fewer, name the hosts, or add hosts: `aima host list` shows them.",
    )


def _check_port(hosts: Sequence[Host], port: int | None) -> None:
    """Raises PortOutOfRange if there are hosts, and none of them leases the port."""
    if port is not None and hosts and not any(host.ports[0] <= port <= host.ports[1] for host in hosts):
        first, last = hosts[0].ports
        raise PortOutOfRange(port=port, first=first, last=last, host=hosts[0].name)


# Locks ----------------------------------------------------------------------------------------------------------

LOCK_TTL = timedelta(seconds=2)
ACQUIRE_TIMEOUT = LOCK_TTL + timedelta(seconds=0.5)
POLL_INTERVAL = timedelta(milliseconds=20)


class PlacementLocks:
    """Distributed locks in Redis, one per service: no two API nodes place replicas from the same snapshot.

    The crash of a holder blocks other nodes for no longer than LOCK_TTL. Every call may raise BrokerUnavailable.
    """

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    @contextmanager
    def holding(self, services: Iterable[ServiceId]) -> Iterator[None]:
        """Holds the locks of these services, acquired in one order everywhere, so that no two nodes deadlock.

        A lock that is not acquired in time is done without: a replica too many is better than a refused start.
        """
        with ExitStack() as acquired:
            for service in sorted(services):
                lock = self._redis.lock(
                    keys.turn(service),
                    timeout=LOCK_TTL.total_seconds(),
                    sleep=POLL_INTERVAL.total_seconds(),
                    blocking_timeout=ACQUIRE_TIMEOUT.total_seconds(),
                )
                lock.acquire()
                acquired.callback(_release, lock)
            yield


def _release(lock: TextLock) -> None:
    # It expired concurrently, was never acquired, or Redis restarts, after which it expires.
    with suppress(LockError, NoScriptError):
        lock.release()
