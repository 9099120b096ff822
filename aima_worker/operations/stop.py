"""Taking a service down on this host. Repeatable, and a success where nothing runs.

A Docker Engine that does not answer is waited for: most often it is only begun anew.
"""

from __future__ import annotations

import time
from datetime import timedelta

from aima_core.domain.operations import Phase, StopService
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import DockerUnavailable
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.execution.attempt import Attempt
from aima_worker.operations.teardown import remove_container

WAIT_FOR_STARTS = 30.0
"""Seconds that a start, told to end, may take to clear away before the stop goes on by itself."""

ENGINE_AWAY = timedelta(minutes=2)
"""For how long one is waited for. After that the stop fails, and the watch takes down what is there once it is back."""
ASKS_AGAIN_SECONDS = 1.0


def stop(host: HostContext, attempt: Attempt, command: StopService) -> None:
    operation = attempt.operation
    instance = Instance(
        id=command.service.on(host.name),
        desired=Desired.STOPPED,
        fence=operation.fence,
        state=InstanceState.STOPPING,
        operation=operation.id,
        since=now(),
    )
    wanted = host.services.set_desired(instance)
    attempt.enter_phase(Phase.STOPPING)
    host.claims.cancel_starts_of(command.service, below=operation.fence, within=WAIT_FOR_STARTS)
    if wanted:
        host.services.update_status(instance)
        _take_down(host, attempt, command)
        host.release_resources(command.service, fence=operation.fence)
        host.services.update_status(instance.model_copy(update={"state": InstanceState.STOPPED, "since": now()}))
    attempt.finish(Phase.STOPPED)


def _take_down(host: HostContext, attempt: Attempt, command: StopService) -> None:
    asks_until = time.monotonic() + ENGINE_AWAY.total_seconds()
    away = _try_to_take_down(host, command)
    if away:
        attempt.report_message(f"{away} This goes on as soon as it does.")
    while away:
        if time.monotonic() > asks_until:
            raise away
        attempt.sleep(ASKS_AGAIN_SECONDS)
        away = _try_to_take_down(host, command)


def _try_to_take_down(host: HostContext, command: StopService) -> DockerUnavailable | None:
    with host.service_lock(command.service):
        try:
            remove_container(host, command.service, grace=command.grace)
        except DockerUnavailable as away:
            return away
    return None
