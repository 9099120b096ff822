"""The steps of a start: what it does to each instance. Starts, rollbacks and plans compute them by the same code.

A plan that is executed against the same snapshot recreates exactly the containers that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from aima_api.planning.placement import Placement, Target
from aima_api.planning.planner import PlannedStart
from aima_core.domain.ids import HostName
from aima_core.domain.services import Instance, InstanceState
from aima_core.store.whereabouts import Whereabouts


class Action(StrEnum):
    UNCHANGED = "unchanged"
    """It runs as asked, or is being started so."""
    CREATE = "create"
    RECREATE = "recreate"
    """Its container is replaced by another one."""
    MOVE = "move"
    """Created on another host, and stopped where it was."""
    STOP = "stop"
    PENDING = "pending"
    """It waits for capacity, or for a host."""
    REFUSED = "refused"


class Step(NamedTuple):
    action: Action
    target: Target | None = None
    """Where it starts; None for a stop."""
    stopped: Target | None = None
    """Where the instance is stopped that this one replaces."""
    instance: Instance | None = None
    """What runs at the target now."""
    reason: str | None = None
    submits: bool = True
    """False where nothing is to be done."""


_Address = tuple[tuple[str, ...], tuple[str, ...]]
"""What gateways may send it, and its names."""
_RUNS = (InstanceState.READY, InstanceState.UNHEALTHY, InstanceState.RESTARTING)


def steps_of(
    planned: PlannedStart, where: Whereabouts, placement: Placement, *, hosts: Sequence[HostName] = ()
) -> list[Step]:
    """`hosts` override the service's own. Raises UnknownHost, RequirementsNotMet, PortOutOfRange, InvalidRequest."""
    targets = planned.targets(placement, hosts=hosts, current=where.hosts)
    bound = hosts or planned.bound_hosts
    replaced = [] if bound else placement.replaced(where.wanted, targets)
    address = planned.command.serves, planned.command.names
    steps = [_step(planned, target, where, placement, address) for target in targets]
    for at, step in enumerate(steps):
        if replaced and step.action in (Action.CREATE, Action.PENDING):
            action = Action.MOVE if step.action is Action.CREATE else step.action
            steps[at] = step._replace(action=action, stopped=replaced.pop(0))
    return [*steps, *(Step(Action.STOP, stopped=target) for target in replaced)]


def reserve(planned: PlannedStart, steps: Sequence[Step], placement: Placement) -> None:
    """Counts what these steps start as allocated, so that the next service planned from this snapshot sees less."""
    for step in steps:
        if step.submits and step.target:
            placement.reserve(step.target, planned.requirements)


def _step(planned: PlannedStart, target: Target, where: Whereabouts, placement: Placement, address: _Address) -> Step:
    instance = where.wanted.get(target.host) if target.host else None
    runs = instance is not None and instance.state in _RUNS
    if planned.runs_as_asked(target, where, placement):
        reason = _outdated_address(instance, address) if instance else None
        return Step(Action.UNCHANGED, target, instance=instance, reason=reason, submits=False)
    if planned.is_starting(target, where):
        return Step(Action.UNCHANGED, target, instance=instance, reason="it is being started")
    if target.reason:
        return Step(Action.PENDING, target, instance=instance, reason=target.reason)
    if not runs or instance is None:
        return Step(Action.CREATE, target, instance=instance)
    if planned.command.replace:
        return Step(Action.RECREATE, target, instance=instance, reason="a restart was requested")
    if instance.runs is None:  # its worker does not report it: the worker adopts or replaces the container
        return Step(Action.UNCHANGED, target, instance=instance, reason="its host decides whether it runs as asked")
    if instance.runs != planned.runs:
        return Step(Action.RECREATE, target, instance=instance)
    if instance.state is InstanceState.READY:  # a candidate that is about to change it is superseded
        return Step(Action.UNCHANGED, target, instance=instance, reason="a pending change of it is superseded")
    return Step(Action.RECREATE, target, instance=instance, reason=f"it is {instance.state}")


def _outdated_address(instance: Instance, address: _Address) -> str | None:
    """Of an instance that runs as asked: an edit, or an upgrade of AIMA, must not replace it for this."""
    if (instance.serves, instance.names) == address:
        return None
    return f"`aima service restart {instance.id.service}` applies what gateways may send it, and its names"
