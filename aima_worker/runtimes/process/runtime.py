"""The native runtime: engines as processes of this machine, for hosts without a Docker Engine.

Each engine has a directory (`files.py`), whose lock serializes concurrent changes, and a supervisor, which survives a
restart of the worker: the next worker adopts the engine. There are no images and mounts. Where the worker may switch
users, each engine has one of its own (`users.py`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from aima_core.domain.hosts import ImageOnHost
from aima_core.errors import (
    EngineRefused,
    GpuUnavailable,
    ModelPathChanged,
    NativeAccessDenied,
    NativeProgramMissing,
    NoImagesHere,
    PortTaken,
)
from aima_worker.port_owner import owner_of_port
from aima_worker.runtime import (
    SECRETS_VARIABLE,
    ChangeStream,
    Container,
    ContainerSpec,
    ImageFacts,
    LogStream,
    PullStream,
    RuntimeFacts,
    Status,
)
from aima_worker.runtimes.mounts import SeenMount, verify_mounts
from aima_worker.runtimes.process.confinement import DENIED, OWN_DIRECTORY, SECRETS_DIRECTORY, SHARED_MEMORY
from aima_worker.runtimes.process.disk import free_space, remove_tree
from aima_worker.runtimes.process.files import LOG
from aima_worker.runtimes.process.launcher import environment, find_program, launch, reap
from aima_worker.runtimes.process.run_record import NATIVE, RunRecord, empty
from aima_worker.runtimes.process.streams import PolledChanges, ProcessLogs
from aima_worker.secret_files import FILES, variables_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_GPU_DEVICE = Path("/dev/nvidiactl")


class ProcessRuntime:
    """A ContainerRuntime on the directories below `root`, shared by all threads and by other workers."""

    def __init__(self, root: Path, *, host: str, users: range | None = None, disk: int | None = None) -> None:
        """`users` are those of engines, None the worker's own; `disk` the bytes that each may write, None a half of
        what is free at its start."""
        self._root = root.absolute()
        self._host = host
        self._users = users
        self._disk = disk

    @property
    def is_local(self) -> bool:
        return True

    def facts(self) -> RuntimeFacts:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return RuntimeFacts(
            kind="process",
            version=f"{platform.system()} {platform.release()}",
            gpus=_GPU_DEVICE.exists(),
            disk_free=shutil.disk_usage(self._root).free,
            separates_engines=self._users is not None,
        )

    def image(self, image: str) -> ImageFacts | None:  # noqa: ARG002 no image is needed
        machine = platform.machine()
        return ImageFacts(id=NATIVE, digest=None, arch=_ARCHITECTURES.get(machine, machine), size=0)

    def images(self) -> list[ImageOnHost]:
        return []

    def registry_architectures(self, image: str) -> frozenset[str]:  # noqa: ARG002 there are no images
        return frozenset()

    def pull(self, image: str, *, stall: timedelta) -> PullStream:  # noqa: ARG002 there are no images
        raise NoImagesHere(host=self._host)

    def remove_image(self, image: str) -> None:  # noqa: ARG002 there are no images
        raise NoImagesHere(host=self._host)

    def run(self, spec: ContainerSpec) -> Container:
        reap()
        if not _NAME.fullmatch(spec.name):
            raise self._refused(f"{spec.name!r} is not a valid name of a directory")
        with self._locked(spec.name) as directory:
            existing = RunRecord.of(directory)
            if existing:
                adoptable = existing.container()
                if existing.spec.spec_hash == spec.spec_hash and adoptable.status is Status.RUNNING:
                    return adoptable
                existing.kill()
            empty(directory)
            try:
                return self._start(directory, spec)
            except OSError as failed:
                remove_tree(directory)
                raise self._refused(str(failed)) from failed
            except BaseException:
                remove_tree(directory)
                raise

    def find(self, name: str) -> Container | None:
        reap()
        record = self._record(name)
        return record.container() if record else None

    def containers(self, labels: Mapping[str, str], *, sizes: bool = False) -> list[Container]:  # noqa: ARG002 no file system of its own
        reap()
        directories = sorted(self._root.iterdir()) if self._root.exists() else []
        records = (RunRecord.of(directory) for directory in directories)
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
        # Without the lock: a concurrent removal with a shorter grace must not be blocked by this one.
        record.terminate(grace=grace)
        with self._locked(name) as directory:
            now = RunRecord.of(directory)
            if now is None or now.id == record.id:
                record.kill()
                empty(directory)
                remove_tree(directory)
        reap()

    def _start(self, directory: Path, spec: ContainerSpec) -> Container:
        program = self._program(spec)
        if spec.gpus is not None and not _GPU_DEVICE.exists():
            raise GpuUnavailable(host=self._host, detail=f"there is no {_GPU_DEVICE}")
        if not _is_free(spec.host_address, spec.host_port):
            raise PortTaken(
                port=spec.host_port, host=self._host, holder=owner_of_port(spec.host_port) or "another program"
            )
        record = RunRecord.create(directory, spec)
        order = {
            "id": record.id,
            "command": [program, *spec.command[1:]],
            "environment": {
                **environment(spec, mark=record.id, home=OWN_DIRECTORY if self._users else None),
                **self._secrets(spec),
            },
            "secrets": _files_of(spec),
            "memory": spec.memory,
            "cores": spec.cores,
            "pids": spec.pids,
            "gpus": spec.gpus is not None,
            "shared_memory": spec.shared_memory or SHARED_MEMORY,
            "disk": self._disk or free_space(directory) // 2,
            "reads": [mount.source for mount in spec.mounts],
            "users": [self._users.start, self._users.stop] if self._users else None,
        }
        if (refusal := launch(directory, order)) is not None:
            record.kill()
            if refusal.startswith(DENIED):
                raise NativeAccessDenied(host=self._host, path=refusal.removeprefix(DENIED))
            raise self._refused(refusal)
        self._verify(record)
        return record.container()

    def _secrets(self, spec: ContainerSpec) -> dict[str, str]:
        """Variables, which the supervisor gets by its stdin: no value is in an argument or in a file of the run."""
        variables = variables_of(spec.secrets) if spec.secrets else {}
        if (files := _files_of(spec)) is not None:
            variables[SECRETS_VARIABLE] = SECRETS_DIRECTORY if self._users else files
        return variables

    def _verify(self, record: RunRecord) -> None:
        """The engine opens its model by itself: it finds what was checked, or is killed."""
        expected = [SeenMount(each.source, each.source, each.identity) for each in record.spec.mounts if each.identity]
        try:
            if expected and (engine := record.engine) is not None:
                verify_mounts(expected, pid=engine.pid, host=self._host)
        except ModelPathChanged:
            record.kill()
            raise

    def _program(self, spec: ContainerSpec) -> str:
        program = spec.command[0]
        if (path := find_program(program)) is None:
            engine = spec.labels.get("aima.engine", spec.name)
            install = f"`{spec.install}`" if spec.install else f"see `native.install` in `aima engine show {engine}`"
            raise NativeProgramMissing(
                host=self._host, program=program, engine=engine, remedy=f"Install it on {self._host}: {install}."
            )
        return path

    def _refused(self, detail: str) -> EngineRefused:
        return EngineRefused(runtime=f"The operating system of {self._host}", detail=detail)

    def _record(self, name: str) -> RunRecord | None:
        return RunRecord.of(self._root / name) if _NAME.fullmatch(name) else None

    def _runs(self, name: str) -> bool:
        found = self.find(name)
        return found is not None and found.status is not Status.EXITED

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """The name's directory, created if missing, under a lock against other threads and workers."""
        directory = self._root / name
        while True:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Race: while this thread was blocked, the directory may have been removed and created again.
                if directory.exists() and os.path.samestat(directory.stat(), os.fstat(descriptor)):
                    yield directory
                    return
            finally:
                os.close(descriptor)


def _files_of(spec: ContainerSpec) -> str | None:
    """The directory with the files of its secrets."""
    return str(Path(spec.secrets.source) / FILES) if spec.secrets and spec.secrets.files else None


def _is_free(address: str, port: int) -> bool:
    """Whether an engine could bind the port. With another machine's address the engine itself fails."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT is not blocked.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as refused:
            return refused.errno != errno.EADDRINUSE
    return True
