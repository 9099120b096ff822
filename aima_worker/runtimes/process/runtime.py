"""The native runtime: engines as processes of this machine, where no Docker Engine can run.

Each engine has a directory, which is its container (`process_files`), and a supervisor, which outlives the worker
(`process_supervisor`): another runtime on the same directories finds what an earlier one started. Images, mounts
and pid limits do not exist here. Memory is watched rather than confined, and cores are a share of the machine's.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from aima_core.domain.hosts import ImageOnHost
from aima_core.domain.operations import PullProgress
from aima_core.errors import EngineRefused, GpuUnavailable, NativeProgramMissing, PortTaken
from aima_worker.port_owner import owner_of_port
from aima_worker.runtime import (
    ChangeStream,
    Container,
    ContainerSpec,
    ImageFacts,
    LogStream,
    PullStream,
    RuntimeFacts,
    Status,
)
from aima_worker.runtimes.polled_changes import PolledChanges
from aima_worker.runtimes.process import ports
from aima_worker.runtimes.process.files import LOG
from aima_worker.runtimes.process.launcher import environment, launch, located, reap
from aima_worker.runtimes.process.log_reader import ProcessLogs
from aima_worker.runtimes.process.run_record import NATIVE, Record, empty

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")
_GPU_DEVICE = Path("/dev/nvidiactl")


class ProcessRuntime:
    """A ContainerRuntime on the directories below `root`. Any number of threads may use it."""

    def __init__(self, root: Path, *, host: str) -> None:
        self._root = root.absolute()
        self._host = host

    def facts(self) -> RuntimeFacts:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return RuntimeFacts(
            kind="process",
            version=f"{platform.system()} {platform.release()}",
            gpus=_GPU_DEVICE.exists(),
            disk_free=shutil.disk_usage(self._root).free,
        )

    def image(self, image: str) -> ImageFacts | None:  # noqa: ARG002 none is ever missing
        return ImageFacts(id=NATIVE, digest=None, arch=_arch(), size=0)

    def images(self) -> list[ImageOnHost]:
        return []

    def registry_architectures(self, image: str) -> frozenset[str]:  # noqa: ARG002 there are no images
        return frozenset()

    def pull(self, image: str, *, stall: timedelta) -> PullStream:  # noqa: ARG002 nothing is fetched
        return _NothingToPull(image)

    def run(self, spec: ContainerSpec) -> Container:
        reap()
        if not _NAME.fullmatch(spec.name):
            raise self._refused(f"{spec.name!r} cannot name a directory")
        with self._alone_in(spec.name) as directory:
            standing = Record.of(directory)
            if standing and _is_as_wanted(standing, spec):
                return standing.container()
            if standing:
                standing.end()
            empty(directory)
            started = False
            try:
                container = self._start(directory, spec)
                started = True
            finally:
                if not started:
                    shutil.rmtree(directory, ignore_errors=True)
            return container

    def find(self, name: str) -> Container | None:
        reap()
        record = self._record(name)
        return record.container() if record else None

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        reap()
        directories = sorted(self._root.iterdir()) if self._root.exists() else []
        records = (Record.of(directory) for directory in directories)
        return [record.container() for record in records if record and labels.items() <= record.spec.labels.items()]

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        log = self._root / name / LOG if _NAME.fullmatch(name) else Path(os.devnull)
        return ProcessLogs(log, has_ended=lambda: not self._runs(name), follow=follow, tail=tail, since=since)

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        return PolledChanges(lambda: self.containers(labels))

    def remove(self, name: str, *, grace: timedelta) -> None:
        record = self._record(name)
        if record is None:
            return
        # Not alone yet: whoever wants it gone sooner need not wait for our grace.
        record.ask_to_end(grace=grace)
        with self._alone_in(name) as directory:
            now = Record.of(directory)
            if now is None or now.id == record.id:
                record.end()
                empty(directory)
                shutil.rmtree(directory, ignore_errors=True)
        reap()

    # Starting one -----------------------------------------------------------------------------------------------

    def _start(self, directory: Path, spec: ContainerSpec) -> Container:
        program = self._program(spec)
        if spec.gpus is not None and not _GPU_DEVICE.exists():
            raise GpuUnavailable(host=self._host, detail=f"it has no {_GPU_DEVICE}")
        if not ports.is_free(spec.host_address, spec.host_port):
            raise PortTaken(
                port=spec.host_port, host=self._host, holder=owner_of_port(spec.host_port) or "another program"
            )
        record = Record.create(directory, spec)
        order = {
            "id": record.id,
            "command": [program, *spec.command[1:]],
            "environment": environment(spec, mark=record.id),
            "memory": spec.memory,
            "cores": spec.cores,
        }
        if (refusal := launch(directory, order)) is not None:
            record.end()
            raise self._refused(refusal)
        return record.container()

    def _program(self, spec: ContainerSpec) -> str:
        program = spec.command[0]
        if (path := located(program)) is None:
            raise NativeProgramMissing(
                host=self._host,
                program=program,
                engine=spec.labels.get("aima.engine", spec.name),
                remedy=f"Install it on {self._host}: {_install(spec)}.",
            )
        return path

    def _refused(self, detail: str) -> EngineRefused:
        return EngineRefused(runtime=f"The operating system of {self._host}", detail=detail)

    # Whose directory it is --------------------------------------------------------------------------------------

    def _record(self, name: str) -> Record | None:
        return Record.of(self._root / name) if _NAME.fullmatch(name) else None

    def _runs(self, name: str) -> bool:
        found = self.find(name)
        return found is not None and found.status is not Status.EXITED

    @contextmanager
    def _alone_in(self, name: str) -> Iterator[Path]:
        """The name's directory, made if need be, while no other thread or worker changes what runs there."""
        directory = self._root / name
        while True:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # While this waited, the directory may have been removed, and another one made.
                if directory.exists() and os.path.samestat(directory.stat(), os.fstat(descriptor)):
                    yield directory
                    return
            finally:
                os.close(descriptor)


class _NothingToPull:
    """A PullStream that has ended before it began."""

    def __init__(self, image: str) -> None:
        self._image = image

    def __iter__(self) -> Iterator[PullProgress]:
        yield PullProgress(image=self._image, downloaded=0, extracted=0, total=0, total_known=True)

    def close(self) -> None:
        pass


def _is_as_wanted(standing: Record, spec: ContainerSpec) -> bool:
    return standing.spec.spec_hash == spec.spec_hash and standing.container().status is Status.RUNNING


def _install(spec: ContainerSpec) -> str:
    engine = spec.labels.get("aima.engine")
    return f"`{spec.install}`" if spec.install else f"`aima engine show {engine}` says how, under `native.install`"


def _arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
