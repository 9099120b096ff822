"""The boundary to whatever runs containers, and the nouns that cross it.

One Protocol, one contract suite (`tests/contract`), several implementations: the Docker SDK, native processes, and
a fake for tests and fleets. Names are the caller's: one name is one container, whoever asks and however often.
"""

from __future__ import annotations

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


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mount(FrozenModel):
    source: str
    """An absolute directory of the host, resolved and below a model root."""
    target: str


class ContainerSpec(FrozenModel):
    """Everything a runtime needs to run one engine. What is not here, no user input can reach."""

    name: str
    image: str
    """Container runtimes: the reference or id to run. The process runtime ignores it."""
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    host_address: str
    """The address of the host on which the port is published."""
    host_port: int
    container_port: int
    mounts: tuple[Mount, ...] = ()
    """All read-only."""
    memory: int | None = None
    """Bytes."""
    cores: float | None = None
    shared_memory: int | None = None
    """Bytes of /dev/shm."""
    pids: int = 4096
    gpus: int | Literal["all"] | tuple[str, ...] | None = None
    """How many, all, or which by id; None for none."""
    install: str | None = None
    """Process runtime: the command that installs the program, told when it is missing."""

    @property
    def spec_hash(self) -> str:
        """Equal for two specs that run the same; labels do not count, for they change nothing that runs."""
        runs = json.dumps(self.model_dump(mode="json", exclude={"labels"}), sort_keys=True)
        return sha256(runs.encode()).hexdigest()[:16]


class Status(StrEnum):
    CREATED = "created"
    """Made, never started."""
    RUNNING = "running"
    EXITED = "exited"


class Container(FrozenModel):
    """What a runtime says of a container at one moment."""

    id: str
    name: str
    status: Status
    labels: Mapping[str, str]
    image: str
    started_at: datetime | None = None
    exit_code: int | None = None
    """Set once it has exited; 128 + n when signal n ended it."""
    oom_killed: bool = False
    host_ports: Mapping[int, int] = {}
    """Container port → host port, as published."""


class ImageFacts(FrozenModel):
    id: str
    """The local image's id (`sha256:…`)."""
    digest: str | None
    """The registry's digest (`sha256:…`); None for an image that no registry knows."""
    arch: str
    """`amd64`, `arm64`, or what else the image says."""
    size: int
    """Bytes on disk."""


class PullStream(Protocol):
    def __iter__(self) -> Iterator[PullProgress]:
        """Where the pull stands, at most about ten times a second, the last one complete.

        Ends only when the image is there. Raises ImageNotFound, RegistryDenied, PullBroken, PullStalled, DiskFull,
        DockerUnavailable, or Cancelled after `close`; never ends quietly on a failed pull.
        """
        ...

    def close(self) -> None:
        """Give the pull up, from any thread, at any time: the iterator ends within two seconds."""
        ...


class LogStream(Protocol):
    def __iter__(self) -> Iterator[LogLine]:
        """Lines in order, stdout and stderr told apart where the runtime can. Ends when the container has."""
        ...

    def close(self) -> None:
        """Stop reading, from any thread; gives back its descriptor."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class ChangeStream(Protocol):
    def __iter__(self) -> Iterator[str]:
        """The name of a container each time something happens to it. Its end says nothing but that it ended."""
        ...

    def close(self) -> None:
        """Stop listening, from any thread."""
        ...


class RuntimeFacts(FrozenModel):
    kind: Literal["docker", "docker-cli", "process", "fake"]
    version: str
    gpus: bool
    """Whether containers can be given GPUs."""
    container_runtimes: tuple[str, ...] = ()
    """What the engine runs containers with, such as `runc` and `nvidia`, by its names."""
    disk_free: int | None
    """Bytes free where images lie; None where the engine is on another machine."""
    live_restore: bool = True
    """Whether containers survive a restart of the engine."""


class ContainerRuntime(Protocol):
    """Runs containers on this host. Every call may raise DockerUnavailable where the engine does not answer."""

    def facts(self) -> RuntimeFacts:
        """What this runtime is and can do, asked anew."""
        ...

    def image(self, image: str) -> ImageFacts | None:
        """The image as it is on the host; None if it is not."""
        ...

    def images(self) -> list[ImageOnHost]:
        """Every reference that an image on the host has, newest images first. What has none is not listed."""
        ...

    def registry_architectures(self, image: str) -> frozenset[str]:
        """The architectures that the image's registry has it for; empty where it does not tell."""
        ...

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        """Begin fetching an image for this host's platform, given up when `stall` passes with no byte or extraction."""
        ...

    def run(self, spec: ContainerSpec) -> Container:
        """Have the container of that name running: adopt it if it runs with the spec's fingerprint, else make it anew.

        An adopted container keeps the labels that it was made with. A container of that name which no runtime of
        AIMA made is left alone: EngineRefused.
        Raises PortTaken, GpuUnavailable, ImageNotFound, NativeProgramMissing or EngineRefused, and then leaves no
        container behind.
        """
        ...

    def find(self, name: str) -> Container | None:
        """The container of that name, asked anew; None if there is none."""
        ...

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers, running or not, that carry every one of the labels."""
        ...

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        """The container's lines, oldest first; nothing if there is no such container."""
        ...

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        """Listen for what happens to the containers that carry every one of the labels."""
        ...

    def remove(self, name: str, *, grace: timedelta) -> None:
        """Ask the container to end, kill it after `grace`, and delete it; do nothing if there is none.

        When it returns, the host port is free to bind.
        """
        ...
