"""Running an engine again that was ready and has ended: a few times, ever later, then no more.

All that is needed stands in the container's labels, so that a host that was rebooted without a network brings its
engines back by itself; the records follow as soon as Redis answers.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from datetime import timedelta

from aima_core.domain.ids import InstanceId
from aima_core.errors import EngineDied
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import container_spec
from aima_worker.operations.model_paths import model_directory
from aima_worker.reconciler.inventory import ManagedContainer

WAITS = (timedelta(seconds=1), timedelta(seconds=10), timedelta(seconds=30))
"""Before the first, second and third restart."""
WITHIN = timedelta(minutes=10)
"""Restarts older than this are forgiven."""


class RestartTracker:
    """When each instance was or shall be brought back."""

    def __init__(self) -> None:
        self._planned: dict[InstanceId, float] = {}
        self._made: defaultdict[InstanceId, deque[float]] = defaultdict(deque)

    def plan(self, instance: InstanceId) -> bool:
        """Set the time of the next restart, if none is set; False when there have been enough."""
        made, now = self._made[instance], time.monotonic()
        while made and now - made[0] > WITHIN.total_seconds():
            made.popleft()
        if instance not in self._planned:
            if len(made) == len(WAITS):
                return False
            self._planned[instance] = now + WAITS[len(made)].total_seconds()
        return True

    def is_due(self, instance: InstanceId) -> bool:
        return time.monotonic() >= self._planned.get(instance, 0)

    def made(self, instance: InstanceId) -> None:
        self._planned.pop(instance, None)
        self._made[instance].append(time.monotonic())

    def count(self, instance: InstanceId) -> int:
        return len(self._made[instance])

    def seconds_to_next(self) -> float:
        """Until a planned restart is due; infinite when none is planned."""
        return max(0.0, min(self._planned.values(), default=float("inf")) - time.monotonic())


def restart(host: HostContext, known: ManagedContainer) -> None:
    """Run a container again as it was, on its own port. Raises as a start does."""
    spec = container_spec(
        host,
        known.command,
        image=known.image,
        directory=model_directory(host, known.command),
        port=known.port,
        granted=known.granted,
    )
    host.runtime.run(spec)


def exit_error(known: ManagedContainer, *, restarts: int) -> EngineDied:
    container = known.container
    how = "killed for want of memory" if container.oom_killed else f"exit code {container.exit_code}"
    enough = restarts == len(WAITS)
    then = f"It was brought back {restarts} times, and is not again." if enough else "It is brought back."
    return EngineDied(how=how, then=then, service=known.service)
