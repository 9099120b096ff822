"""Pulls: pulls an image, or an engine's, to hosts: one operation per host."""

from __future__ import annotations

from aima_api.catalog.selection import Catalog
from aima_api.http.schemas import PullOptions
from aima_api.planning.placement import Target, routes_of
from aima_api.planning.planner import StartPlanner
from aima_api.submission.submitter import Submitter
from aima_core.domain.operations import Operation, PullImage
from aima_core.domain.resources import ResourceRequest
from aima_core.scheduling.feasibility import PlacementRequirements


class Pulls:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, catalog: Catalog, planner: StartPlanner, submitter: Submitter) -> None:
        self._catalog = catalog
        self._planner = planner
        self._submitter = submitter

    def pull(self, options: PullOptions) -> list[Operation]:
        """Raises UnknownEngine, UnknownHost, InvalidRequest, RequirementsNotMet, TooManyOperations."""
        engine = self._catalog.engine(options.engine) if options.engine else None
        images = engine.images if engine else (str(options.image),)
        size = engine.image_size if engine else None
        requirements = PlacementRequirements(
            routes_of(engine) if engine else (),
            ResourceRequest(),
            images=images,
            image_size=size,
            subject=f"image {images[0]}",
        )
        targets = self._targets(options, requirements)
        self._submitter.check_backlog(len(targets))
        return self._submitter.submit(PullImage(images=images, image_size=size), targets)

    def _targets(self, options: PullOptions, requirements: PlacementRequirements) -> list[Target]:
        """The named hosts, every host of the route or of the engine's, or the only host there is."""
        placement = self._planner.placement()
        if hosts := options.hosts or ((options.route.host,) if options.route and options.route.host else ()):
            return placement.on_hosts(hosts, requirements)
        if routes := (options.route,) if options.route else requirements.routes:
            return placement.every_host(routes, requirements)
        return placement.on_hosts([placement.only_host()], requirements)
