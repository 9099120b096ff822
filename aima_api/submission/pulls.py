"""Pulls: pulls an image, or an engine's, to hosts: one operation per host."""

from __future__ import annotations

from aima_api.http.schemas import PullOptions
from aima_api.planning.placement import Placement, Target, routes_of
from aima_api.planning.planner import StartPlanner
from aima_api.submission.submitter import Submitter
from aima_core.domain.operations import Operation, PullImage
from aima_core.domain.resources import ResourceRequest
from aima_core.scheduling.feasibility import PlacementRequirements
from aima_core.trust.orders import Mandate


def submit_pull(planner: StartPlanner, submitter: Submitter, options: PullOptions, *, caller: str) -> list[Operation]:
    """Raises UnknownEngine, UnknownHost, InvalidRequest, RequirementsNotMet, TooManyOperations, BrokerUnavailable."""
    engine = planner.catalog.engine(options.engine) if options.engine else None
    images = engine.images if engine else (str(options.image),)
    size = engine.image_size if engine else None
    routes = routes_of(engine) if engine else ()
    requirements = PlacementRequirements(
        routes, ResourceRequest(), images=images, image_size=size, subject=f"image {images[0]}"
    )
    targets = _targets(planner.placement(), options, requirements)
    submitter.backlog.reserve(len(targets))
    return submitter.submit(PullImage(images=images, image_size=size), targets, Mandate(caller, options.expires))


def _targets(placement: Placement, options: PullOptions, requirements: PlacementRequirements) -> list[Target]:
    """The named hosts, every host of the route or of the engine's, or the only host there is."""
    if hosts := options.hosts or ((options.route.host,) if options.route and options.route.host else ()):
        return placement.on_hosts(hosts, requirements)
    if routes := (options.route,) if options.route else requirements.routes:
        return placement.every_host(routes, requirements)
    return placement.on_hosts([placement.only_host()], requirements)
