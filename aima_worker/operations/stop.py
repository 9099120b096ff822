"""Stops a service on this host. Idempotent: a success if nothing runs.

A container engine that does not answer is retried, since most often it restarts. After that the stop fails, and the
reconciler resumes the teardown once the engine answers.
"""

import time
from datetime import timedelta

from aima_core.domain.operations import Phase, StopService
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import DockerUnavailable
from aima_core.store.operations import now
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.operations.teardown import teardown

ROLLBACK_TIMEOUT = timedelta(seconds=30)
"""How long a cancelled start may take to roll back before the stop proceeds without it."""
ENGINE_RETRY_INTERVAL = timedelta(seconds=1)


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
    is_latest = host.services.set_desired(instance)
    attempt.enter_phase(Phase.STOPPING)
    host.claims.cancel_starts_of(command.service, below=operation.fence, within=ROLLBACK_TIMEOUT)
    if is_latest:
        host.services.update_status(instance)
        _teardown_when_engine_answers(host, attempt, instance, grace=command.grace)
    attempt.finish(Phase.STOPPED)


def _teardown_when_engine_answers(host: HostContext, attempt: Attempt, instance: Instance, *, grace: timedelta) -> None:
    deadline = time.monotonic() + host.timings.engine_wait_timeout.total_seconds()
    reported = False
    while True:
        try:
            teardown(host, instance, grace=grace)
            return
        except DockerUnavailable as unavailable:
            if not reported:
                attempt.report(f"{unavailable} The stop continues when it answers.")
            reported = True
            if time.monotonic() > deadline:
                raise
            attempt.sleep(ENGINE_RETRY_INTERVAL)
