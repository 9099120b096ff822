"""Pulls and removals of models: one operation per host, on the queue of its worker, with a resolved manifest."""

from __future__ import annotations

from collections.abc import Sequence

from aima_api.http.schemas import PullModelOptions, RemoveModelOptions
from aima_api.planning.placement import Placement, Target
from aima_api.planning.planner import StartPlanner
from aima_api.submission.submitter import Submitter
from aima_core.domain.catalog import Model
from aima_core.domain.ids import HostName, ModelId
from aima_core.domain.models import Manifest, Weights
from aima_core.domain.operations import Operation, PullModel, RemoveModel
from aima_core.domain.resources import ResourceRequest
from aima_core.errors import InvalidRequest, ModelAbsent
from aima_core.scheduling.feasibility import PlacementRequirements
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
    """Raises UnknownHost, InvalidRequest, RequirementsNotMet, TooManyOperations, BrokerUnavailable."""
    targets = _targets(planner.placement(), model, manifest, options)
    submitter.backlog.reserve(len(targets))
    command = PullModel(manifest=manifest, token=model.token)
    return submitter.submit(command, targets, Mandate(caller, options.expires))


def submit_model_removal(
    submitter: Submitter, placement: Placement, model: ModelId, options: RemoveModelOptions, *, caller: str
) -> list[Operation]:
    """From the hosts, or from every live host whose store has it.

    Raises UnknownHost, ModelAbsent, TooManyOperations, BrokerUnavailable.
    """
    hosts: Sequence[HostName] = options.hosts or [
        host.name for host in placement.hosts if host.live and any(each.model == model for each in host.stored or ())
    ]
    if not hosts:
        raise ModelAbsent(model=model, where="on any live host")
    targets = placement.for_stop(hosts)
    submitter.backlog.reserve(len(targets))
    return submitter.submit(RemoveModel(model=model), targets, Mandate(caller, options.expires))


def _targets(placement: Placement, model: Model, manifest: Manifest, options: PullModelOptions) -> list[Target]:
    """The named hosts, every live host of the route, or the only host there is."""
    weights = Weights(model=model.id, name=manifest.name, size=manifest.size)
    requirements = PlacementRequirements((), ResourceRequest(weights=weights), subject=f"model {model.name}")
    route = options.route
    if hosts := options.hosts or ((route.host,) if route and route.host else ()):
        return placement.on_hosts(hosts, requirements)
    if route is None:
        return placement.on_hosts([placement.only_host()], requirements)
    live = [host.name for host in placement.hosts if host.live and route in host.routes]
    if not live:
        detail, remedy = f"No live host listens to {route}.", "`aima host list` shows the hosts with their routes."
        raise InvalidRequest(detail=detail, remedy=remedy)
    return placement.on_hosts(live, requirements)
