"""What a start would come to, without anything being done: where it would go, and why not to every other host.

What only a host itself can find out is not looked at: whether the weights are there, and who else uses its ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel

from aima_api.planning.placement import Placement, Sought, Target
from aima_api.planning.planner import StartPlanner
from aima_core.domain.ids import EngineName, HostName, Route, ServiceId
from aima_core.domain.operations import Kind, StartService
from aima_core.domain.resources import ObstacleKind, ResourceRequest
from aima_core.domain.services import Service
from aima_core.errors import AimaError, Failure, InvalidRequest, PortOutOfRange, RequirementsNotMet, WouldWait
from aima_core.scheduling.feasibility import Obstacle, allowed_images, image_there


class Verdict(StrEnum):
    STARTS = "starts"
    WAITS = "waits"
    """For one of the reasons given with its operations."""
    REFUSED = "refused"


class PlannedOperation(BaseModel):
    kind: Kind = Kind.START
    route: Route
    host: HostName | None
    """None where hosts compete for it."""
    image: str | None
    """None on a host that runs native processes."""
    image_there: bool | None
    """None where it depends on the host that takes it."""
    port: int | None
    """None where the host chooses one."""
    reason: str | None
    """What it would wait for; None when it would begin now."""


class Reason(BaseModel):
    obstacle: ObstacleKind
    sentence: str
    """Goes on after the host's name."""
    passes: bool
    """It may be otherwise later, without anybody changing the host."""


class HostInPlan(BaseModel):
    host: HostName
    would_do: bool
    why_not: tuple[Reason, ...]


class Plan(BaseModel):
    service: ServiceId
    verdict: Verdict
    failure: Failure | None
    """Why it would not start now."""
    engine: EngineName
    model: str | None
    needs: ResourceRequest
    routes: tuple[Route, ...]
    """The classes of hosts that can run it, the best first."""
    operations: tuple[PlannedOperation, ...]
    hosts: tuple[HostInPlan, ...]
    """Every host that is known, by name."""


def plan(planner: StartPlanner, service: Service, *, known: Sequence[HostName]) -> Plan:
    """Of a service that these hosts have: where it runs, then where it ran.

    Raises what a start raises of the catalog, UnknownHost, and InvalidRequest for a route that cannot be.
    """
    command, placement = planner.command(service), planner.placement()
    sought = planner.sought(service, command)
    places, refusal = _places(planner, service, sought, placement, known)
    failure = refusal or _delay(places)
    against = placement.against(sought.wanted)
    return Plan(
        service=service.id,
        verdict=Verdict.REFUSED if refusal else Verdict.WAITS if failure else Verdict.STARTS,
        failure=failure and failure.failure,
        engine=command.engine.name,
        model=service.model_path or (command.model and command.model.name),
        needs=sought.wanted.resources,
        routes=sought.wanted.routes,
        operations=tuple(_planned(place, command, placement) for place in places),
        hosts=tuple(_told(host, reasons) for host, reasons in against.items()),
    )


def _places(
    planner: StartPlanner, service: Service, sought: Sought, placement: Placement, known: Sequence[HostName]
) -> tuple[list[Target], AimaError | None]:
    try:
        return planner.places(service, sought, placement, known=known), None
    except (RequirementsNotMet, PortOutOfRange, InvalidRequest) as refused:
        return [], refused


def _delay(places: Sequence[Target]) -> AimaError | None:
    reasons = [place.reason for place in places if place.reason]
    return WouldWait(detail=" ".join(reasons)) if reasons else None


def _planned(place: Target, command: StartService, placement: Placement) -> PlannedOperation:
    image, there = _image(place, command, placement)
    return PlannedOperation(
        route=place.route,
        host=place.host,
        image=image,
        image_there=there,
        port=command.port,
        reason=place.reason,
    )


def _image(place: Target, command: StartService, placement: Placement) -> tuple[str | None, bool | None]:
    """The one that would be taken, and whether it is there."""
    images = command.engine.images
    if place.host is None:
        return images[0], None
    if (host := placement.host(place.host)).runtime == "process":
        return None, None
    allowed = allowed_images(images, host.allows)
    there = image_there(host, allowed)
    return there or allowed[0], there is not None


def _told(host: HostName, reasons: Sequence[Obstacle]) -> HostInPlan:
    why_not = tuple(Reason(obstacle=it.kind, sentence=it.sentence, passes=it.transient) for it in reasons)
    return HostInPlan(host=host, would_do=not reasons, why_not=why_not)
