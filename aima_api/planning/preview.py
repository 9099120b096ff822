"""Plan preview: where starts would go and the obstacles of every other host, from the planner that starts use.

Obstacles that only the host itself can find are not included: missing weights of a model without a source, and ports
used by other programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel

from aima_api.http.schemas import ServiceOptions
from aima_api.planning.merge import changed_fields, merged_service
from aima_api.planning.placement import Placement, Target
from aima_api.planning.planner import PlannedStart, StartPlanner
from aima_api.planning.steps import Action, Step, reserve, steps_of
from aima_core.domain.hosts import Host
from aima_core.domain.ids import EngineName, HostName, Route, ServiceId
from aima_core.domain.operations import Kind, StartService
from aima_core.domain.resources import ObstacleKind, ResourceRequest
from aima_core.domain.services import Service
from aima_core.domain.units import Duration
from aima_core.errors import AimaError, Failure, InvalidRequest, PortOutOfRange, RequirementsNotMet, WouldWait
from aima_core.scheduling.feasibility import (
    Obstacle,
    PlacementRequirements,
    allowed_images,
    bytes_to_fetch,
    image_there,
)
from aima_core.store.services import ServiceStore
from aima_core.store.whereabouts import Whereabouts
from aima_core.trust.records import SignedService

LONGEST_ESTIMATE = timedelta(days=30)
"""A rate by which a fetch takes longer is no measurement."""


class Verdict(StrEnum):
    UNCHANGED = "unchanged"
    """It runs as asked: a start would do nothing."""
    STARTS = "starts"
    WAITS = "waits"
    """Pending, for the reasons given with its operations."""
    REFUSED = "refused"


# The parts of a plan are many, and made of values that are valid already: they are not validated again.


@dataclass(frozen=True, kw_only=True)
class PlannedOperation:
    kind: Kind = Kind.START
    route: Route
    host: HostName | None
    """None if workers of the route compete for it."""
    first: HostName | None = None
    """Of these, the one that is notified first: it has the model, or most of it."""
    image: str | None
    """None on a host that runs native processes."""
    image_there: bool | None
    """None if it depends on the host that claims it."""
    port: int | None
    """None if the host chooses one."""
    reason: str | None
    """Why it would be pending; None if it would start now."""


@dataclass(frozen=True)
class PlannedInstance:
    """What a start would do to one instance."""

    action: Action
    host: HostName | None
    """None if workers of the route compete for it."""
    route: Route | None
    fields: tuple[str, ...] = ()
    """Of a container that would be replaced: what differs from the revision that it runs."""
    moved_from: HostName | None = None
    reason: str | None = None


class Reason(BaseModel):
    obstacle: ObstacleKind
    sentence: str
    """Continues the host's name."""
    passes: bool
    """The obstacle is transient: it can pass without a change of the host."""


@dataclass(frozen=True)
class HostInPlan:
    host: HostName
    would_do: bool
    why_not: tuple[Reason, ...]
    to_fetch: int | None = None
    """Bytes of the model; 0 if the host has it, None if that is unknown, or nothing is to be on the host's disk."""
    fetch_takes: Duration | None = None
    """At the rate of its last fetch; None if it has measured none."""


class Plan(BaseModel):
    service: ServiceId
    verdict: Verdict
    failure: Failure | None
    """Why it would not start now."""
    engine: EngineName
    model: str | None
    needs: ResourceRequest
    routes: tuple[Route, ...]
    """The classes of hosts that can run it, best first."""
    instances: tuple[PlannedInstance, ...]
    operations: tuple[PlannedOperation, ...]
    hosts: tuple[HostInPlan, ...]
    """Every known host, by name."""


class PlanRequest(NamedTuple):
    """A service as it is to be, and as it is."""

    service: Service
    where: Whereabouts
    kept: Sequence[SignedService] = ()
    """Its revisions, which name the fields that differ from what an instance runs."""


def plan_changes(
    planner: StartPlanner, services: ServiceStore, changes: Mapping[ServiceId, ServiceOptions]
) -> list[Plan | AimaError]:
    """One plan of the starts of these services with these options, in this order, as `plan_together` makes it."""
    known, requests = services.placements([*changes]), dict[ServiceId, PlanRequest | AimaError]()
    kept = differing_revisions(services, known)
    for id, options in changes.items():
        where = known[id]
        try:
            base = where.candidate or where.service
            service = merged_service(base and base.spec, id, options)
            requests[id] = PlanRequest(service, where, kept.get(id, ()))
        except AimaError as refusal:
            requests[id] = refusal
    placement = planner.placement()
    return [each if isinstance(each, AimaError) else _plan(planner, each, placement) for each in requests.values()]


def plan_together(planner: StartPlanner, requests: Iterable[PlanRequest]) -> list[Plan | AimaError]:
    """One plan of several services in this order, from one snapshot: each sees what those before it will allocate.

    In place of a plan, the error that its start would raise: the catalog's, UnknownHost, and InvalidRequest for a route
    that the engine does not accept. It does not affect the others. `StartSubmission.start_together` executes the same
    steps.
    """
    placement = planner.placement()
    return [_plan(planner, each, placement) for each in requests]


def differing_revisions(
    services: ServiceStore, known: Mapping[ServiceId, Whereabouts]
) -> dict[ServiceId, list[SignedService]]:
    """The revisions of those services of which an instance runs another than the current one."""
    return services.revisions_of([id for id, where in known.items() if where.differs])


def _plan(planner: StartPlanner, request: PlanRequest, placement: Placement) -> Plan | AimaError:
    service, where, steps = request.service, request.where, list[Step]()
    refusal: AimaError | None = None
    try:
        planned = planner.plan(service)
        try:
            steps = steps_of(planned, where, placement)
        except (RequirementsNotMet, PortOutOfRange, InvalidRequest) as refused:
            refusal = refused
    except AimaError as refused:
        return refused
    targets = [step.target for step in steps if step.target and step.submits]
    operations = tuple(_planned_operation(target, planned.command, placement) for target in targets)
    reasons = [each.reason for each in operations if each.reason]
    failure = refusal or (WouldWait(detail=" ".join(reasons)) if reasons else None)
    command, requirements = planned.command, planned.requirements
    does_nothing = all(step.action is Action.UNCHANGED for step in steps)
    obstacles = placement.obstacles(requirements)
    changed = {} if does_nothing else _changed_fields(request)
    reserve(planned, steps, placement)
    return Plan(
        service=service.id,
        verdict=_verdict(refusal, waits=bool(reasons), does_nothing=does_nothing),
        failure=failure and failure.failure,
        engine=command.engine.name,
        model=service.model_path or (command.model and command.model.name),
        needs=requirements.resources,
        routes=requirements.routes,
        instances=tuple(_planned_instance(step, changed) for step in steps) or _refused(planned, refusal),
        operations=operations,
        hosts=tuple(
            host_in_plan(host, found, **_fetch(placement.host(host), requirements)) for host, found in obstacles.items()
        ),
    )


def _verdict(refusal: AimaError | None, *, waits: bool, does_nothing: bool) -> Verdict:
    if refusal:
        return Verdict.REFUSED
    if waits:
        return Verdict.WAITS
    return Verdict.UNCHANGED if does_nothing else Verdict.STARTS


def _changed_fields(request: PlanRequest) -> dict[int | None, tuple[str, ...]]:
    """By the revision that an instance may run: what differs in the service as it is to be."""
    stored, wanted = request.where.stored, request.service.content
    known = [each.spec for each in (stored, *request.kept) if isinstance(each, SignedService)]
    return {each.revision: tuple(changed_fields(each.content, wanted)) for each in known}


def _planned_instance(step: Step, changed: Mapping[int | None, tuple[str, ...]]) -> PlannedInstance:
    fields: tuple[str, ...] = ()
    if step.action is Action.RECREATE and step.instance is not None and step.reason is None:
        # The same spec, and another command: the engine's entry was edited.
        fields = changed.get(step.instance.revision) or ("catalog",)
    route, at = step.target.route if step.target else None, step.target or step.stopped
    moved_from = step.stopped.host if step.stopped and step.target else None
    return PlannedInstance(
        action=step.action,
        host=at.host if at else None,
        route=route,
        fields=fields,
        moved_from=moved_from,
        reason=step.reason,
    )


def _refused(planned: PlannedStart, refusal: AimaError | None) -> tuple[PlannedInstance, ...]:
    """One for each host that the service names, or one for all."""
    reason = str(refusal) if refusal else None
    hosts = planned.bound_hosts or (None,)
    return tuple(PlannedInstance(action=Action.REFUSED, host=host, route=None, reason=reason) for host in hosts)


def _planned_operation(target: Target, command: StartService, placement: Placement) -> PlannedOperation:
    image, there = _image(target, command, placement)
    reason = target.reason
    if there is False and command.engine.pull == "never":
        build = f"; `{command.engine.build}` builds it" if command.engine.build else ""
        reason = f"{target.host} lacks {image}, which is never pulled{build}."
    return PlannedOperation(
        route=target.route,
        host=target.host,
        first=target.first,
        image=image,
        image_there=there,
        port=command.port,
        reason=reason,
    )


def _image(target: Target, command: StartService, placement: Placement) -> tuple[str | None, bool | None]:
    """The image that would be run, and whether the host has it."""
    images = command.engine.images
    if target.host is None:
        return images[0], None
    if (host := placement.host(target.host)).runtime == "process":
        return None, None
    allowed = allowed_images(images, host.allows)
    there = image_there(host, allowed)
    return there or allowed[0], there is not None


def host_in_plan(host: HostName, obstacles: Sequence[Obstacle], **fetch: Any) -> HostInPlan:
    why_not = tuple(Reason(obstacle=it.kind, sentence=it.sentence, passes=it.transient) for it in obstacles)
    return HostInPlan(host=host, would_do=not obstacles, why_not=why_not, **fetch)


def _fetch(host: Host, requirements: PlacementRequirements) -> dict[str, Any]:
    """What the host would fetch, and how long that takes by its own measurement."""
    weights = requirements.resources.weights
    missing = bytes_to_fetch(host, weights) if weights else None
    rate, longest = host.fetch_rate or 0.0, LONGEST_ESTIMATE.total_seconds()
    takes = timedelta(seconds=round(missing / rate)) if missing and rate > 0 and missing / rate <= longest else None
    return {"to_fetch": missing, "fetch_takes": takes}
