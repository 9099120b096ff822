"""Where an operation is sent: to a host by name, or to the class of hosts that can run the engine.

The queue is the scheduler: for one instance with no host named, this names a route and the workers compete for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aima_core.catalog import Engine
from aima_core.failures import InvalidRequest, PortOutOfRange, UnknownHost
from aima_core.host_store import HostStore
from aima_core.ids import HostName, Route
from aima_core.services import Host


@dataclass(frozen=True)
class Place:
    route: Route
    reason: str | None = None
    """Why it may wait there; None when somebody listens."""
    also: tuple[Route, ...] = ()
    """Others that would do, while nobody listens anywhere: the first who joins takes it."""

    @property
    def host(self) -> HostName | None:
        return self.route.host


class Placement:
    """The hosts as they are at one moment. Raises BrokerUnavailable within seconds."""

    def __init__(self, hosts: HostStore) -> None:
        self._hosts = {host.name: host for host in hosts.all()}

    def named(self, names: Sequence[HostName], *, port: int | None = None) -> list[Place]:
        """Raises UnknownHost for a name that was never announced, and PortOutOfRange."""
        hosts = [self._host(name) for name in dict.fromkeys(names)]
        for host in hosts:
            _check_port(host, port)
        return [self._at(host.name) for host in hosts]

    def replicas(
        self, count: int, engine: Engine, *, known: Collection[HostName] = (), port: int | None = None
    ) -> list[Place]:
        """So many distinct live hosts that fit, those that have it already first. Raises InvalidRequest if too few."""
        fitting = [host for host in self._hosts.values() if _why_not(host, engine) is None]
        if len(fitting) < count:
            raise InvalidRequest(
                detail=f"{count} replicas were asked for, and {len(fitting)} live host(s) can run {engine.name}."
                + self._why_not_the_others(engine),
                remedy="Ask for fewer, name the hosts, or bring more hosts up: `aima host list`.",
            )
        fitting.sort(key=lambda host: (host.name not in known, host.name))
        return self.named([host.name for host in fitting[:count]], port=port)

    def one(self, engine: Engine, *, known: Collection[HostName] = (), port: int | None = None) -> Place:
        """The host that has it already, else the first route that somebody listens to, else all of them."""
        for name in known:
            if name in self._hosts and _why_not(self._hosts[name], engine) is None:
                return self.named([name], port=port)[0]
        routes = routes_of(engine)
        for route in routes:
            if self._somebody_listens_to(route):
                self._check_port_on(route, port)
                return Place(route)
        return _unheard(*routes)

    def at(self, route: Route) -> Place:
        """A route as it is asked for. Raises UnknownHost where it leads to one that was never announced."""
        if route.host:
            return self.named([route.host])[0]
        return Place(route) if self._somebody_listens_to(route) else _unheard(route)

    def only_host(self) -> Place:
        """The one live host there is. Raises InvalidRequest where there are several or none."""
        live = [host.name for host in self._hosts.values() if host.live]
        if len(live) != 1:
            raise InvalidRequest(
                detail=f"It was not said where, and there are {len(live)} live hosts.",
                remedy="Name `hosts` or a `route`, such as `cpu.amd64`; `aima host list` shows them.",
            )
        return Place(Route.to_host(live[0]))

    def _host(self, name: HostName) -> Host:
        if name not in self._hosts:
            raise UnknownHost(host=name)
        return self._hosts[name]

    def _at(self, name: HostName) -> Place:
        reason = None if self._hosts[name].live else f"{name} is not live; it goes on when {name} is back."
        return Place(Route.to_host(name), reason=reason)

    def _somebody_listens_to(self, route: Route) -> bool:
        return any(_takes_work(host) and route in host.routes for host in self._hosts.values())

    def _why_not_the_others(self, engine: Engine) -> str:
        reasons = [f" {host.name} {why}." for host in self._hosts.values() if (why := _why_not(host, engine))]
        return "".join(reasons) or " No other host has ever announced itself."

    def _check_port_on(self, route: Route, port: int | None) -> None:
        """Refuse a port that none of those who listen there leases."""
        listeners = [host for host in self._hosts.values() if host.live and route in host.routes]
        if listeners and not any(_leases(host, port) for host in listeners):
            _check_port(listeners[0], port)


def routes_of(engine: Engine) -> list[Route]:
    """The classes of hosts that can run it, in the order of its platforms."""
    needs = engine.requires
    return [Route(f"{needs.accelerator}.{platform.removeprefix('linux/')}") for platform in needs.platforms]


def _unheard(route: Route, *also: Route) -> Place:
    named = " or ".join([route, *also])
    return Place(route, reason=f"No live host listens to {named}; it starts when one joins.", also=also)


def _takes_work(host: Host) -> bool:
    return host.live and not host.drained


def _why_not(host: Host, engine: Engine) -> str | None:
    if not host.live:
        return "is not live"
    if host.drained:
        return "is drained"
    if not set(routes_of(engine)) & set(host.routes):
        return f"listens to {', '.join(host.routes)} only"
    return None


def _leases(host: Host, port: int | None) -> bool:
    return port is None or host.ports[0] <= port <= host.ports[1]


def _check_port(host: Host, port: int | None) -> None:
    if not _leases(host, port):
        raise PortOutOfRange(port=port, first=host.ports[0], last=host.ports[1], host=host.name)
