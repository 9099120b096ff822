"""Hosts: the facts that each worker announces, its liveness, and its port leases."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import AwareDatetime, computed_field

from aima_core.domain.catalog import Arch
from aima_core.domain.ids import HostName, InstanceId, Route, Site, WireModel
from aima_core.domain.models import ModelDisk, ModelOnHost


class Accelerator(WireModel):
    """One device."""

    kind: str
    """The first half of a route, such as `gb10`."""
    name: str
    id: str | None = None
    """The id by which a container gets this device; None if there is only one."""
    memory: int | None = None
    """Bytes; None if it shares the host's memory."""
    compute_capability: str | None = None
    """Such as `12.1`."""

    @property
    def is_slice(self) -> bool:
        """An instance of a GPU in MIG mode: CUDA uses one of these at most, and no other device beside it."""
        return self.id is not None and self.id.startswith("MIG-")


def device_ids(accelerators: Sequence[Accelerator]) -> tuple[str, ...]:
    """Those without an id by their index, as drivers count."""
    return tuple(each.id or str(index) for index, each in enumerate(accelerators))


class ImageOnHost(WireModel):
    reference: str
    digest: str | None
    """In its registry; None for an image that was built or loaded here, whose digest is unresolved."""
    id: str | None = None
    """The local image's id: another one under the same reference means that the reference has moved."""
    size: int | None = None
    """Bytes on disk, layers that other images share included."""


class HostFacts(WireModel):
    """The facts of a host, as its worker announced them."""

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
    """Bytes that starts leave free."""
    slots: int = 4
    """The limit of concurrent starts and pulls."""
    disk_free: int
    """Free bytes on the disk of images."""
    runtime: Literal["docker", "docker-cli", "process", "fake"]
    runtime_version: str
    container_runtimes: tuple[str, ...] = ()
    """Such as `runc` and `nvidia`, by Docker's names."""
    gives_gpus: bool = False
    """Whether containers can use GPUs."""
    images: tuple[ImageOnHost, ...] = ()
    """The newest few hundred."""
    allows: tuple[str, ...] = ("*",)
    """Patterns of the image references that it may run."""
    clock_offset: float = 0.0
    """Seconds by which its clock is ahead of Redis'."""
    ports: tuple[int, int]
    """First and last of the range leased to engines."""
    routes: tuple[Route, ...]
    labels: Mapping[str, str] = {}
    strangers: tuple[str, ...] = ()
    """Unrecognized containers: they carry this installation's labels, and the worker cannot parse them."""
    runtime_answers: bool = True
    """False while its Docker Engine is unavailable: instances are unknown, and starts are refused."""
    memory_low: int | None = None
    """Bytes available while it takes no starts, since they are less than `memory_reserve`."""
    disk_low: int | None = None
    """Bytes of disk free while it takes no starts, since they are less than `disk_reserve`."""
    disk_reserve: int = 0
    """Bytes of disk that starts leave free."""
    models: tuple[str, ...] | None = None
    """Directories below its model roots that hold files, relative to their root; None while they are not known."""
    stored: tuple[ModelOnHost, ...] | None = None
    """The models in its store; None if its worker's version fetches none."""
    model_disk: ModelDisk | None = None
    """Of its store; None while that is not known, or if its worker's version does not measure it."""
    fetch_rate: float | None = None
    """Bytes per second of its last fetch of a model, as its worker measured it; None if it has measured none."""
    secrets: tuple[str, ...] = ()
    """Names of the entries that services may refer to."""
    secrets_at: str | None = None
    """Their directory; None if its worker's version gives engines no secrets."""
    verifies_mounts: bool = True
    """Whether its worker compares what a started container has mounted with the directory that it checked."""
    isolates_engines: bool = True
    """Whether its worker refuses engines in containers the ports that other engines publish on the host."""
    separates_engines: bool = True
    """Whether its engines run as other users than its worker: false for native ones of a worker that is not root."""
    dataplane: str | None = None
    """The URL of its data plane, by which gateways of other machines reach its engines; None if it has none."""
    site: Site = Site("default")
    """Hosts of one site share models."""
    key: str | None = None
    """Its own public key, which API nodes certify; None if its worker's version shares no models."""
    version: str
    """AIMA's own."""
    wire: int = 1
    """The newest version of orders and labels that its worker knows."""


class AssignedLabels(WireModel):
    """Labels that a document gave to a host."""

    labels: Mapping[str, str] = {}
    owner: str | None = None
    """Of the document."""


class Host(HostFacts):
    """A host's facts with its liveness. `labels` are the announced ones, below the assigned ones."""

    live: bool
    left: bool = False
    """Its worker has shut down; containers keep running."""
    seen_at: AwareDatetime
    silent_for: float = 0.0
    """Seconds since its last heartbeat, by Redis' clock."""
    drained_since: AwareDatetime | None = None
    """Set while it takes no starts."""
    assigned: AssignedLabels = AssignedLabels()
    messages_dropped: int = 0
    """Malformed messages dropped; reset after a day without any on all hosts."""

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way of showing a property
    @property
    def drained(self) -> bool:
        return self.drained_since is not None


class InstanceUsage(WireModel):
    cpu: float | None
    """In percent of one core, since the measurement before; None at the first one."""
    memory: int
    """Bytes of its processes' own; memory of a GPU with its own is not counted."""
    restarts: int = 0
    """In the last 10 minutes, and since its last start."""


class HostUsage(WireModel):
    """What a host and its running instances use, as its worker measured it."""

    host: HostName
    at: AwareDatetime
    cpu: float
    """In percent of all cores."""
    memory: int
    """Bytes that the kernel cannot give to others."""
    instances: Mapping[InstanceId, InstanceUsage] = {}


class PortLease(WireModel):
    """A leased port on a host, and its holder."""

    host: HostName
    port: int
    holder: InstanceId
    fence: int
    since: AwareDatetime
    until: AwareDatetime | None
    """The expiry; None while the holder's container exists."""
