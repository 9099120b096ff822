"""Pulls, removals, pins and collections of models: one operation per host, on the queue of its worker."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from aima_api.http.schemas import PinModelOptions, PruneModelsOptions, PullModelOptions, RemoveModelOptions
from aima_api.planning.placement import Placement, Target
from aima_api.planning.planner import StartPlanner
from aima_api.submission.submitter import Submitter
from aima_core.domain.catalog import Model
from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName, ModelId
from aima_core.domain.models import Manifest, Source, Weights
from aima_core.domain.operations import Kind, Operation, PinModel, PruneModels, PullModel, RemoveModel
from aima_core.domain.resources import ResourceRequest
from aima_core.errors import InvalidRequest, ModelAbsent, RequirementsNotMet
from aima_core.scheduling.feasibility import PlacementRequirements, bytes_to_fetch
from aima_core.trust.orders import Mandate


def submit_model_pull(
    planner: StartPlanner,
    submitter: Submitter,
    model: Model,
    manifest: Manifest,
    options: PullModelOptions,
    *,
    caller: str,
) -> list[Operation]:
    """On the targets, and on the host whose directory the source is, if others could not get it else.

    Raises UnknownHost, InvalidRequest, RequirementsNotMet, TooManyOperations, BrokerUnavailable.
    """
    placement = planner.placement()
    targets = _targets(placement, model, manifest, options)
    targets += pull_at_source(placement, manifest, targets)
    submitter.backlog.reserve(len(targets))
    command = PullModel(manifest=manifest, token=model.token)
    return submitter.submit(command, targets, Mandate(caller, options.expires))


def pull_at_source(
    placement: Placement, manifest: Manifest, targets: Sequence[Target], *, path: str | None = None
) -> list[Target]:
    """The host whose directory is the source, if it must fetch the model so that the targets get it from there.

    It must unless it has the model, or all targets have, such as at the model's `path`. None while it is away: other
    hosts may have the model.
    """
    host = next((each for each in placement.hosts if each.name == Source.parse(manifest.source).host), None)
    weights = Weights(model=manifest.model, name=manifest.name, size=manifest.size)
    if host is None or not host.live or _has(host, weights) or host.name in {target.host for target in targets}:
        return []
    enough = weights.model_copy(update={"path": path})
    if all(target.host and _has(placement.host(target.host), enough) for target in targets):
        return []
    with suppress(RequirementsNotMet):
        return placement.on_hosts([host.name], _requirements(weights))
    return []


def submit_model_removal(
    submitter: Submitter, placement: Placement, model: ModelId, options: RemoveModelOptions, *, caller: str
) -> list[Operation]:
    """From the hosts, or from every live host whose store has it.

    Raises UnknownHost, ModelAbsent, TooManyOperations, BrokerUnavailable.
    """
    targets = placement.for_stop(options.hosts or _hosts_with(placement, model))
    submitter.backlog.reserve(len(targets))
    return submitter.submit(RemoveModel(model=model), targets, Mandate(caller, options.expires))


def submit_model_pin(
    submitter: Submitter,
    placement: Placement,
    model: ModelId,
    options: PinModelOptions,
    *,
    kind: Literal[Kind.PIN_MODEL, Kind.UNPIN_MODEL],
    caller: str,
) -> list[Operation]:
    """On the hosts, or on every live host whose store has it.

    Raises UnknownHost, ModelAbsent, TooManyOperations, BrokerUnavailable.
    """
    targets = placement.for_stop(options.hosts or _hosts_with(placement, model))
    submitter.backlog.reserve(len(targets))
    return submitter.submit(PinModel(kind=kind, model=model), targets, Mandate(caller, options.expires))


def submit_model_prune(
    submitter: Submitter, placement: Placement, options: PruneModelsOptions, *, caller: str
) -> list[Operation]:
    """On the hosts, or on every live host whose store has models.

    Raises UnknownHost, TooManyOperations, BrokerUnavailable.
    """
    hosts = options.hosts or [host.name for host in placement.hosts if host.live and host.stored]
    targets = placement.for_stop(hosts)
    submitter.backlog.reserve(len(targets))
    command = PruneModels(all=options.all, dry_run=options.dry_run)
    return submitter.submit(command, targets, Mandate(caller, options.expires))


def _hosts_with(placement: Placement, model: ModelId) -> list[HostName]:
    """Live ones, by what they last announced. Raises ModelAbsent."""
    live = (host for host in placement.hosts if host.live)
    hosts = [host.name for host in live if any(each.model == model for each in host.stored or ())]
    if not hosts:
        raise ModelAbsent(model=model, where="on any live host")
    return hosts


def _has(host: Host, weights: Weights) -> bool:
    return bytes_to_fetch(host, weights) == 0


def _requirements(weights: Weights, *, name: str | None = None) -> PlacementRequirements:
    return PlacementRequirements((), ResourceRequest(weights=weights), subject=f"model {name or weights.model}")


def _targets(placement: Placement, model: Model, manifest: Manifest, options: PullModelOptions) -> list[Target]:
    """The named hosts, every live host of the route and the site, or the only host there is."""
    weights = Weights(model=model.id, name=manifest.name, size=manifest.size)
    requirements = _requirements(weights, name=model.name)
    route, site = options.route, options.site
    if hosts := options.hosts or ((route.host,) if route and route.host else ()):
        return placement.on_hosts(hosts, requirements)
    if route is None and site is None:
        return placement.on_hosts([placement.only_host()], requirements)
    live = [
        host.name
        for host in placement.hosts
        if host.live and (route is None or route in host.routes) and site in (None, host.site)
    ]
    if not live:
        where = " ".join(filter(None, [route and f"listens to {route}", site and f"is of the site {site}"]))
        detail, remedy = f"No live host {where}.", "`aima host show` has the routes and the site of a host."
        raise InvalidRequest(detail=detail, remedy=remedy)
    return placement.on_hosts(live, requirements)
