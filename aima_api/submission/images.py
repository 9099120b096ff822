"""Pulls and removals of images: one operation per host and image.

An image that is built on the hosts is never pulled, under whatever spelling of its repository. A removal names images;
without names, only images of the catalog that no instance uses and that can be pulled again are removed.
"""

from __future__ import annotations

from collections.abc import Sequence

from aima_api.catalog.selection import Catalog
from aima_api.http.schemas import PullOptions, RemoveImages
from aima_api.planning.host_images import HostImage
from aima_api.planning.placement import Placement, Target, routes_of
from aima_api.planning.planner import StartPlanner
from aima_api.submission.submitter import Dispatch, Submitter
from aima_core.domain.catalog import repository_of
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Operation, PullImage, RemoveImage
from aima_core.domain.resources import ResourceRequest
from aima_core.errors import ImageAbsent, ImageInUse, ImageNeverPulled, NoImagesHere
from aima_core.scheduling.feasibility import PlacementRequirements
from aima_core.trust.orders import Mandate


def submit_pull(planner: StartPlanner, submitter: Submitter, options: PullOptions, *, caller: str) -> list[Operation]:
    """Raises UnknownEngine, UnknownHost, InvalidRequest, ImageNeverPulled, NoImagesHere, RequirementsNotMet,

    TooManyOperations, BrokerUnavailable.
    """
    engine = planner.catalog.engine(options.engine) if options.engine else None
    images = engine.images if engine else (str(options.image),)
    size = engine.image_size if engine else None
    routes = routes_of(engine) if engine else ()
    for image in images:
        _check_is_pulled(planner.catalog, image)
    requirements = PlacementRequirements(
        routes, ResourceRequest(), images=images, image_size=size, subject=f"image {images[0]}"
    )
    targets = _targets(planner.placement(), options, requirements)
    submitter.backlog.reserve(len(targets))
    command = PullImage(images=images, image_size=size, pull="always" if options.force else "missing")
    return submitter.submit(command, targets, Mandate(caller, options.expires))


def submit_removal(
    submitter: Submitter, placement: Placement, listed: Sequence[HostImage], options: RemoveImages, *, caller: str
) -> list[Operation]:
    """`listed` are the images of the hosts to remove from. All are removed or none.

    Raises UnknownHost, ImageAbsent, ImageInUse, NoImagesHere, TooManyOperations, BrokerUnavailable.
    """
    _check_have_images(placement, options.hosts)
    chosen = [each for each in listed if _is_removed(each, options)]
    for each in chosen:
        if users := [*each.used_by]:
            raise ImageInUse(image=each.reference, host=each.host, users=", ".join(users))
    dispatches = []
    for image in options.images or dict.fromkeys(each.reference for each in chosen):
        hosts = options.hosts or [each.host for each in chosen if each.reference == image]
        if not hosts:
            raise ImageAbsent(image=image, where="on any live host")
        targets = placement.for_stop(hosts)
        dispatches.append(Dispatch(RemoveImage(image=image), targets, Mandate(caller, options.expires)))
    submitter.backlog.reserve(sum(len(each.targets) for each in dispatches))
    return submitter.submit_all(dispatches)


def _check_is_pulled(catalog: Catalog, image: str) -> None:
    repository = repository_of(image)
    for engine in catalog.engines:
        if engine.pull == "never" and repository in map(repository_of, engine.images):
            how = f"`{engine.build}`" if engine.build else "as its file says"
            why = f"{engine.name} has `pull: never`, since it is built on the hosts."
            raise ImageNeverPulled(image=image, why=why, remedy=f"Build it on each host: {how}.")


def _is_removed(image: HostImage, options: RemoveImages) -> bool:
    if options.unused:
        return image.can_be_pulled_again and not image.used_by
    return image.reference in options.images


def _targets(placement: Placement, options: PullOptions, requirements: PlacementRequirements) -> list[Target]:
    """The named hosts, every host of the route or of the engine's, or the only host there is."""
    if hosts := options.hosts or ((options.route.host,) if options.route and options.route.host else ()):
        _check_have_images(placement, hosts)
        return placement.on_hosts(hosts, requirements)
    if routes := (options.route,) if options.route else requirements.routes:
        return placement.every_host(routes, requirements)
    only = placement.only_host()
    _check_have_images(placement, [only])
    return placement.on_hosts([only], requirements)


def _check_have_images(placement: Placement, hosts: Sequence[HostName]) -> None:
    for host in map(placement.host, hosts):
        if host.runtime == "process":
            raise NoImagesHere(host=host.name)
