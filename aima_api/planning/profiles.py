"""Profiles: the hosts that match one, and its recommended services as requests that are started together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from aima_api.catalog.selection import Catalog
from aima_api.http.schemas import ServiceOptions
from aima_api.planning.preview import HostInPlan, host_in_plan
from aima_core.domain.catalog import Profile
from aima_core.domain.hosts import Host
from aima_core.domain.ids import EngineName, HostName, Route, ServiceId
from aima_core.domain.resources import Held, ObstacleKind, ResourceRequest, host_memory_of, resources_of
from aima_core.domain.units import format_size
from aima_core.errors import NoHostMatches
from aima_core.scheduling.feasibility import Obstacle, PlacementRequirements, describe, find_obstacles

NOMINAL = 0.9
"""Of a profile's memory: a machine that is sold with so much reports less, since firmware takes some."""


class RecommendedService(BaseModel):
    service: ServiceId
    engine: EngineName
    model: str
    needs: ResourceRequest


class ProfileRecord(Profile):
    services: tuple[RecommendedService, ...]
    """In the order in which they are started."""
    hosts: tuple[HostInPlan, ...]
    """Every known host by name, and what keeps it from matching."""


def record_of(profile: Profile, catalog: Catalog, hosts: Sequence[Host]) -> ProfileRecord:
    matching = tuple(host_in_plan(host.name, _mismatches(profile, host)) for host in hosts)
    return ProfileRecord.model_construct(**dict(profile), services=services_of(profile, catalog), hosts=matching)


def services_of(profile: Profile, catalog: Catalog) -> tuple[RecommendedService, ...]:
    """The largest first: it loads longest, and its memory is counted before that of the smaller ones."""
    found = []
    for each in profile.recommends:
        engine, model = catalog.engine(each.engine), catalog.model(each.model)
        id = ServiceId.of(engine.type, model.id)
        needs = resources_of(engine, model)
        found.append(RecommendedService(service=id, engine=engine.name, model=model.name, needs=needs))
    return tuple(sorted(found, key=lambda it: -host_memory_of(it.needs, unified=profile.unified_memory)))


def options_of(
    profile: Profile, catalog: Catalog, hosts: Sequence[Host], *, named: Sequence[HostName]
) -> dict[ServiceId, ServiceOptions]:
    """What each service is started with, on the `named` hosts or on all that match. Raises NoHostMatches."""
    chosen = list(named or _matching(profile, hosts))
    return {
        each.service: ServiceOptions(engine=each.engine, hosts=tuple(chosen)) for each in services_of(profile, catalog)
    }


def _matching(profile: Profile, hosts: Sequence[Host]) -> list[HostName]:
    """Not drained. Raises NoHostMatches."""
    drained = [Obstacle(ObstacleKind.DRAINED, "drained", True)]
    lacking = [(host, _mismatches(profile, host) + (drained if host.drained else [])) for host in hosts]
    if found := [host.name for host, obstacles in lacking if not obstacles]:
        return found
    detail = ". ".join(describe(host, obstacles) for host, obstacles in lacking)
    raise NoHostMatches(profile=profile.name, detail=detail or "there is no host")


def _mismatches(profile: Profile, host: Host) -> list[Obstacle]:
    kind = Route(f"{profile.accelerator}.{profile.arch}")
    wanted = PlacementRequirements(routes=(kind,), resources=ResourceRequest(cores=profile.cores))
    return [*find_obstacles(host, wanted, Held()), *_memory_mismatches(profile, host)]


def _memory_mismatches(profile: Profile, host: Host) -> Iterator[Obstacle]:
    if host.memory < profile.memory * NOMINAL:
        sentence = f"needs {format_size(profile.memory)} memory (host: {format_size(host.memory)})"
        yield Obstacle(ObstacleKind.MEMORY, sentence, False)
    if host.unified_memory != profile.unified_memory:
        sentence = f"has {'' if host.unified_memory else 'no '}memory that CPU and GPU share"
        yield Obstacle(ObstacleKind.MEMORY, sentence, False)
