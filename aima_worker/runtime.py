"""The boundary to the container runtime: one Protocol, the types that cross it, one contract suite (`tests/contract`).

The caller chooses the names, and one name is one container: concurrent or duplicate requests to run it never create a
second. Streams are iterated by one thread and closed by any.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict

from aima_core.domain.hosts import ImageOnHost
from aima_core.domain.operations import PullProgress
from aima_core.logs.protocol import LogLine
from aima_worker.directories import DirectoryIdentity

SECRETS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Names the directory in which an engine finds the files of its secrets, as systemd does for its services."""
INSTALLATION_LABEL = "aima.installation"
SIGKILLED = 137
"""The exit code of a container that SIGKILL ended."""
"""Of everything that an installation creates in a container engine, on every host."""


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mount(FrozenModel):
    source: str
    """An absolute directory of the host, with symbolic links resolved, below a model root."""
    target: str
    identity: DirectoryIdentity | None = None
    """Of the directory that was checked; a runtime that finds another one mounted removes the container."""


class SecretMount(FrozenModel):
    """The secrets of one container, in a directory of the host: the names of files, and of variables."""

    source: str
    version: str
    """A random id: equal for equal names and values of one container, and no function of them."""
    files: tuple[str, ...]
    environment: tuple[str, ...]


class ContainerSpec(FrozenModel):
    """Everything a runtime needs to run one engine. User input reaches no other setting of a container."""

    name: str
    image: str
    """A reference or id. Ignored by the process runtime."""
    entrypoint: tuple[str, ...] = ()
    """Replaces the image's; empty keeps that."""
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    host_address: str
    """The address on which the port is published."""
    host_port: int
    container_port: int
    mounts: tuple[Mount, ...] = ()
    """All are read-only."""
    read_only: bool = False
    """Whether its file system is, apart from `tmpfs` and /dev/shm."""
    tmpfs: Mapping[str, int] = {}
    """Directories in memory, by their size in bytes."""
    disk: int | None = None
    """Bytes that it may write into its file system, where the runtime has quotas."""
    secrets: SecretMount | None = None
    memory: int | None = None
    """Bytes."""
    cores: float | None = None
    shared_memory: int | None = None
    """Bytes of /dev/shm."""
    pids: int = 4096
    gpus: int | Literal["all"] | tuple[str, ...] | None = None
    """A count, all, or the ids; None for none."""
    network: str | None = None
    """The installation whose network it joins, in which containers reach neither each other nor their host's ports. It
    is created if missing; None joins the runtime's default network."""
    install: str | None = None
    """Process runtime: the command that installs the program, for the message when it is missing."""

    @property
    def spec_hash(self) -> str:
        """Equal for two specs that run the same container. Labels do not count: nothing that runs depends on them.

        Defaults and the network do not count either: they must not replace the containers of an earlier version.
        """
        left_out = {"labels", "network"}
        runs = json.dumps(self.model_dump(mode="json", exclude=left_out, exclude_defaults=True), sort_keys=True)
        return sha256(runs.encode()).hexdigest()[:16]


class Status(StrEnum):
    CREATED = "created"
    """Created and never started: also what a crash between create and start leaves."""
    RUNNING = "running"
    EXITED = "exited"


class Container(FrozenModel):
    """A snapshot of one container."""

    id: str
    name: str
    status: Status
    labels: Mapping[str, str]
    image: str
    image_id: str | None = None
    """The local id of the image that it was created from; None for a native process."""
    started_at: datetime | None = None
    exit_code: int | None = None
    """Set once it has exited; 128 + n if signal n killed it."""
    oom_killed: bool = False
    host_ports: Mapping[int, int] = {}
    """Published ports: container port → host port."""
    pid: int | None = None
    """Of its first process; None in listings, if it does not run, and if this worker may not examine it."""
    written: int | None = None
    """Bytes on the host's disk that it has written into its file system; None unless they were asked for."""


class ImageFacts(FrozenModel):
    id: str
    """The local image's id (`sha256:…`)."""
    digest: str | None
    """In the registry of its reference (`sha256:…`); None unless it was pulled from or pushed to there."""
    arch: str
    """`amd64`, `arm64`, or another that the image names."""
    size: int
    """Bytes on disk."""


class PullStream(Protocol):
    def __iter__(self) -> Iterator[PullProgress]:
        """Snapshots of the progress, throttled to about ten a second; the last one is complete.

        Ends only once the image is on the host, never silently on a failed pull. Raises ImageNotFound, RegistryDenied,
        PullBroken, PullStalled, DiskFull, DockerUnavailable, NoImagesHere, or Cancelled after `close`.
        """
        ...

    def close(self) -> None:
        """Cancel the pull, from any thread: the iterator ends within two seconds."""
        ...


class LogStream(Protocol):
    def __iter__(self) -> Iterator[LogLine]:
        """Lines in order of time, per stream. Ends when the container has exited."""
        ...

    def close(self) -> None:
        """Stop reading, from any thread, and release its descriptor."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ChangeStream(Protocol):
    def __iter__(self) -> Iterator[str]:
        """The name of a container at each change of its status.

        The stream may end at any time, so a subscriber also polls."""
        ...

    def close(self) -> None:
        """Unsubscribe, from any thread."""
        ...


class RuntimeFacts(FrozenModel):
    kind: Literal["docker", "docker-cli", "process", "fake"]
    version: str
    gpus: bool
    """Whether containers can be given GPUs."""
    container_runtimes: tuple[str, ...] = ()
    """The engine's names for its low-level runtimes, such as `runc` and `nvidia`."""
    disk_free: int | None
    """Bytes free on the file system of the images; None if the engine is on another machine."""
    disks: tuple[str, ...] = ()
    """Directories of the images and containers; empty if they are on another machine, or there are none."""
    isolates_engines: bool = True
    """Whether it can refuse its containers each other's published ports."""
    separates_engines: bool = True
    """Whether engines run as other users than the worker."""
    live_restore: bool = True
    """Whether containers survive a restart of the engine itself."""


class ContainerRuntime(Protocol):
    """Runs containers on this host, for any number of threads.

    Every call may raise DockerUnavailable: no answer, or none before its timeout. Every call may be retried."""

    @property
    def is_local(self) -> bool:
        """Whether its engines run on this machine, whose loopback then reaches them."""
        ...

    def facts(self) -> RuntimeFacts:
        """Its kind, version and abilities, never from a cache."""
        ...

    def image(self, image: str) -> ImageFacts | None:
        """The image on the host; None if it is missing."""
        ...

    def images(self) -> list[ImageOnHost]:
        """Every reference of an image on the host, newest images first. Images without a reference are not listed."""
        ...

    def registry_architectures(self, image: str) -> frozenset[str]:
        """The architectures that the registry offers the image for; empty if the registry does not answer."""
        ...

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        """Start to pull an image for this host's platform. It fails after `stall` without a new byte or extraction."""
        ...

    def remove_image(self, image: str) -> None:
        """Remove the reference, and the image with its last one. Idempotent, and never by force.

        Raises ImageInUse if a container was created from the image, running or not; NoImagesHere.
        """
        ...

    def run(self, spec: ContainerSpec) -> Container:
        """Idempotent: adopts the container of that name if it runs the same spec, else replaces or creates it.

        An adopted container keeps its labels. A container of that name that is not AIMA's is left alone: EngineRefused.
        Raises PortTaken, GpuUnavailable, ImageNotFound, NativeProgramMissing, ModelPathChanged, NoNetwork or
        EngineRefused, each with a rollback: no container is left behind.
        """
        ...

    def find(self, name: str) -> Container | None:
        """The container of that name, never from a cache; None if there is none."""
        ...

    def containers(self, labels: Mapping[str, str], *, sizes: bool = False) -> list[Container]:
        """A snapshot of all containers, running or not, that have every one of the labels.

        With `sizes`, those that run on a file system of their own have `written`, for which their files are walked.
        """
        ...

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        """The container's lines, oldest first; empty if there is no such container."""
        ...

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        """Subscribe to changes of the containers that have every one of the labels."""
        ...

    def remove(self, name: str, *, grace: timedelta) -> None:
        """Idempotent: sends SIGTERM, kills the container after `grace`, and deletes it.

        The host port is free to bind when it returns, also to a concurrent caller.
        """
        ...
