"""Hosts: the facts that each worker announces, what is known of the host besides, and its port leases."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import computed_field

from aima_core.domain.catalog import Arch
from aima_core.domain.ids import HostName, InstanceId, Route, WireModel


class Accelerator(WireModel):
    """One device."""

    kind: str
    """The first half of a route, such as `gb10`."""
    name: str
    id: str | None = None
    """By which a container is given just this one; None where there is no choice."""
    memory: int | None = None
    """Bytes; None where it shares the host's."""
    compute_capability: str | None = None
    """Such as `12.1`."""


class ImageOnHost(WireModel):
    reference: str
    digest: str | None
    """The registry's; None for an image that no registry knows."""


class HostFacts(WireModel):
    """What a host has, as its worker announced it."""

    name: HostName
    identity: str
    """Minted once and kept on the host."""
    arch: Arch
    address: str
    accelerators: tuple[Accelerator, ...] = ()
    unified_memory: bool = False
    """CPU and GPU share `memory`."""
    cores: int
    memory: int
    """Bytes."""
    memory_reserve: int = 0
    """Bytes of it that starts leave free."""
    slots: int = 4
    """Starts and pulls under way at once."""
    disk_free: int
    """Bytes free where images lie."""
    runtime: Literal["docker", "docker-cli", "process", "fake"]
    runtime_version: str
    container_runtimes: tuple[str, ...] = ()
    """Such as `runc` and `nvidia`, by Docker's names."""
    gives_gpus: bool = False
    """Whether containers can be given GPUs."""
    images: tuple[ImageOnHost, ...] = ()
    """Those there, as far as the list is kept: the newest few hundred."""
    allows: tuple[str, ...] = ("*",)
    """Patterns of the image references that it runs."""
    clock_offset: float = 0.0
    """Seconds by which its clock is ahead of Redis'."""
    ports: tuple[int, int]
    """First and last of the range leased to engines."""
    routes: tuple[Route, ...]
    labels: Mapping[str, str] = {}
    strangers: tuple[str, ...] = ()
    """Containers that carry this installation's labels and that the host's worker cannot make out: left alone."""
    runtime_answers: bool = True
    """False while its Docker Engine is away: what runs there is not known then, and nothing can be started."""
    version: str
    """AIMA's own."""


class Host(HostFacts):
    """A host with what is known of it now."""

    live: bool
    left: bool = False
    """Its worker ended in good order; what runs there goes on."""
    seen_at: datetime
    silent_for: float = 0.0
    """Seconds since it was last heard of, by Redis' clock."""
    drained_since: datetime | None = None
    """Set while it takes no starts."""
    messages_dropped: int = 0
    """Those on its queues that made no sense, until a day has passed in which no host met one."""

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way of showing a property
    @property
    def drained(self) -> bool:
        return self.drained_since is not None


class PortLease(WireModel):
    """A port on a host, and who holds it."""

    host: HostName
    port: int
    holder: InstanceId
    fence: int
    since: datetime
    until: datetime | None
    """None while the holder's container lives: it ends with evidence that the container is gone."""
