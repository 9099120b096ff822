"""Running an engine again that was ready and has ended: a few times, ever later, then no more.

All that is needed stands in the container's labels, so that a host that was rebooted without a network brings its
engines back by itself; the records follow as soon as Redis answers.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from datetime import timedelta

from aima_core.failures import EngineDied
from aima_core.ids import InstanceId
from aima_core.operations import StartService
from aima_worker.container_spec import COMMAND_LABEL, IMAGE_LABEL, PORT_LABEL, Granted, container_spec
from aima_worker.host import Host
from aima_worker.model_paths import model_directory
from aima_worker.runtime import Container

WAITS = (timedelta(seconds=1), timedelta(seconds=10), timedelta(seconds=30))
"""Before the first, second and third restart."""
WITHIN = timedelta(minutes=10)
"""Restarts older than this are forgiven."""


class Restarts:
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


def command_of(container: Container) -> StartService:
    """The command a container was started by."""
    return StartService.model_validate_json(container.labels[COMMAND_LABEL])


def health_url(host: Host, container: Container) -> str:
    path = command_of(container).engine.health_check.path
    return f"http://{host.settings.host.address}:{container.labels[PORT_LABEL]}{path}"


def run_again(host: Host, container: Container) -> None:
    """Run a container again as it was, on its own port. Raises as a start does."""
    command = command_of(container)
    spec = container_spec(
        host,
        command,
        image=container.labels[IMAGE_LABEL],
        directory=model_directory(host, command),
        port=int(container.labels[PORT_LABEL]),
        granted=Granted.told_by(container.labels),
    )
    host.runtime.run(spec)


def death_of(container: Container, *, restarts: int) -> EngineDied:
    how = "killed for want of memory" if container.oom_killed else f"exit code {container.exit_code}"
    enough = restarts == len(WAITS)
    then = f"It was brought back {restarts} times, and is not again." if enough else "It is brought back."
    return EngineDied(how=how, then=then, service=command_of(container).service)
