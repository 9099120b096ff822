"""The record of one run, read from its directory: its status and exit, and how to kill it. Nothing is cached.

If the supervisor crashed, the engine is killed by the next poll of its status.
"""

from __future__ import annotations

import signal
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from aima_worker.runtime import Container, ContainerSpec, Status
from aima_worker.runtimes.process.disk import remove_tree
from aima_worker.runtimes.process.files import (
    EXIT,
    LOST_EXIT_CODE,
    RUNNING,
    SPEC,
    WORK,
    read,
    reserve_exit,
    write,
    write_exit,
)
from aima_worker.runtimes.process.launcher import kill_user
from aima_worker.runtimes.process.process_table import Process, kill_family

NATIVE = "native"
"""The image of every native process."""
EXIT_RECORD_TIMEOUT = timedelta(seconds=5)
"""For a supervisor to record the exit of its killed engine."""


@dataclass(frozen=True)
class RunRecord:
    directory: Path
    id: str
    spec: ContainerSpec

    @classmethod
    def of(cls, directory: Path) -> Self | None:
        """The run in the directory; None if there is none. A field of a newer version is dropped."""
        record = read(directory / SPEC)
        if not record:
            return None
        return cls(directory, record["id"], ContainerSpec.model_validate(record["spec"], extra="ignore"))

    @classmethod
    def create(cls, directory: Path, spec: ContainerSpec) -> Self:
        record = cls(directory, uuid.uuid4().hex, spec)
        (directory / WORK).mkdir(mode=0o700)
        reserve_exit(directory)
        write(directory / SPEC, {"id": record.id, "spec": spec.model_dump(mode="json")})
        return record

    def container(self) -> Container:
        """A snapshot. Kills an engine whose supervisor has crashed."""
        running = read(self.directory / RUNNING)
        ended = self._ended(running)
        return Container(
            id=self.id,
            name=self.spec.name,
            status=Status.EXITED if ended else Status.RUNNING if running else Status.CREATED,
            labels=self.spec.labels,
            image=NATIVE,
            started_at=datetime.fromtimestamp(running["at"], UTC) if running else None,
            exit_code=ended["code"] if ended else None,
            oom_killed=bool(ended and ended["out_of_memory"]),
            host_ports={self.spec.container_port: self.spec.host_port},
            pid=running["engine"][0] if running and not ended else None,
        )

    def terminate(self, *, grace: timedelta) -> None:
        """Send SIGTERM, and wait for the exit until the grace expires."""
        supervisor = self.supervisor
        if supervisor and grace:
            supervisor.send(signal.SIGTERM)
            supervisor.gone(within=grace)

    def kill(self) -> None:
        """Kill all its processes; none runs when this returns."""
        kill_family(self.engine, self.id)
        supervisor = self.supervisor
        if supervisor and not supervisor.gone(within=EXIT_RECORD_TIMEOUT):
            supervisor.send(signal.SIGKILL)
            supervisor.gone(within=EXIT_RECORD_TIMEOUT)
        self._kill_rest(read(self.directory / RUNNING))

    @property
    def supervisor(self) -> Process | None:
        return self._process("supervisor")

    @property
    def engine(self) -> Process | None:
        """The first of the engine's processes."""
        return self._process("engine")

    def _ended(self, running: dict[str, Any] | None) -> dict[str, Any] | None:
        ended = read(self.directory / EXIT)
        if ended or running is None or Process(*running["supervisor"]).alive:
            return ended
        # Race: the supervisor may have recorded the exit and ended between the two reads.
        if ended := read(self.directory / EXIT):
            return ended
        kill_family(Process(*running["engine"]), self.id)
        self._kill_rest(running)
        return write_exit(self.directory, code=LOST_EXIT_CODE, out_of_memory=False)

    def _kill_rest(self, running: dict[str, Any] | None) -> None:
        """What a supervisor that was killed has left of its engine's user."""
        if running and running.get("user") is not None and not read(self.directory / EXIT):
            kill_user(running["user"], killer=running["killer"])

    def _process(self, role: str) -> Process | None:
        running = read(self.directory / RUNNING)
        return Process(*running[role]) if running else None


def empty(directory: Path) -> None:
    """Delete all files of the run, and keep the directory with its lock."""
    # First, so that a crash leaves no half-deleted run.
    (directory / SPEC).unlink(missing_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
