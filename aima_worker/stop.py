"""Taking a service down on this host. Repeatable, and a success where nothing runs."""

from __future__ import annotations

from aima_core.operation_store import now
from aima_core.operations import Phase, StopService
from aima_core.services import Desired, Instance, InstanceState
from aima_worker.host import Host
from aima_worker.taking_down import take_down
from aima_worker.undertaking import Undertaking

WAIT_FOR_STARTS = 30.0
"""Seconds that a start, told to end, may take to clear away before the stop goes on by itself."""


def stop(host: Host, undertaking: Undertaking, command: StopService) -> None:
    operation = undertaking.operation
    instance = Instance(
        id=command.service.on(host.name),
        desired=Desired.STOPPED,
        fence=operation.fence,
        state=InstanceState.STOPPING,
        operation=operation.id,
        since=now(),
    )
    wanted = host.services.intend(instance)
    undertaking.enter(Phase.STOPPING)
    host.keeper.stop_starts_of(command.service, below=operation.fence, within=WAIT_FOR_STARTS)
    if wanted:
        host.services.observe(instance)
        with host.exclusively(command.service):
            take_down(host, command.service, grace=command.grace)
        host.give_back(command.service, fence=operation.fence)
        host.services.observe(instance.model_copy(update={"state": InstanceState.STOPPED, "since": now()}))
    undertaking.end(Phase.STOPPED)
