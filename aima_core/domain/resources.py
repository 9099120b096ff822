"""Resource requests of starts, the capacity of hosts, allocations, and the obstacles to placement."""

from enum import StrEnum
from functools import cached_property
from typing import Literal, NamedTuple, Self

from pydantic import ByteSize

from aima_core.domain.catalog import Engine, Model
from aima_core.domain.ids import ServiceId, WireModel
from aima_core.domain.models import Weights


class ResourceRequest(WireModel):
    """A pull requests nothing; it occupies a slot while it runs."""

    memory: int = 0
    """Bytes of host memory."""
    gpus: int | Literal["all"] = 0
    gpu_memory: int = 0
    """Bytes of GPU memory; of host memory on a host where both are one."""
    cores: int = 0
    """The cores that the host must have; engines share them."""
    weights: Weights | None = None
    """What must be on the host's disk; None for an engine that reads no model with a source."""


class HostCapacity(WireModel):
    """The capacity of a host as its worker measures it; its allocations are in Redis."""

    memory: int
    """Bytes for all engines together: the host's memory less its reserve."""
    available: int
    """Bytes that the kernel reports as available, less the reserve."""
    gpus: tuple[str, ...] = ()
    """The ids of its devices."""
    gpu_memory: tuple[int | None, ...] = ()
    """Bytes of each device; None for an unknown one, which is left to the engine."""
    unified: bool = False
    """CPU and GPU share the memory: engines share the GPU, too, and load one at a time."""
    slots: int
    """The limit of concurrent starts and pulls."""
    model_disk: int | None = None
    """Bytes that one more model may take; None if that is not known, or not to be checked."""


class Allocation(NamedTuple):
    """Resources of a host that are allocated to one service."""

    memory: int
    fence: int
    """Of the operation that allocated it."""
    gpus: tuple[str, ...] = ()
    loading: bool = False
    """The kernel does not report all of its memory as used yet."""

    def __str__(self) -> str:
        """As `lua/lib/allocations.lua` reads and writes it."""
        return f"{self.memory} {int(self.loading)} {self.fence} {','.join(self.gpus)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        memory, loading, fence, gpus = text.split(" ")
        ids = filter(None, gpus.split(","))
        return cls(memory=int(memory), loading=loading == "1", fence=int(fence), gpus=tuple(ids))


class Held(dict[ServiceId, Allocation]):
    """The allocations of one host by service. It is never changed: a plan compares it with many requests."""

    @cached_property
    def memory(self) -> int:
        return sum(each.memory for each in self.values())

    def memory_of_others(self, service: ServiceId) -> int:
        own = self.get(service)
        return self.memory - (own.memory if own else 0)

    def others(self, service: ServiceId) -> list[Allocation]:
        return [each for name, each in self.items() if name != service]

    def replacing(self, service: ServiceId, own: Allocation) -> "Held":
        held = Held({**self, service: own})
        held.memory = self.memory_of_others(service) + own.memory
        return held


class ObstacleKind(StrEnum):
    """Why a host cannot run an operation: explained by feasibility, enforced by the claim."""

    OFFLINE = "offline"
    DOCKER_AWAY = "docker_away"
    DRAINED = "drained"
    ARCH = "arch"
    ACCELERATOR = "accelerator"
    GPUS = "gpus"
    GPU_MEMORY = "gpu_memory"
    CORES = "cores"
    MEMORY = "memory"
    LOADING = "loading"
    """Another engine is loading into the memory that CPU and GPU share."""
    SLOTS = "slots"
    DISK = "disk"
    IMAGE_NOT_ALLOWED = "image_not_allowed"
    NATIVE = "native"
    """The host runs native processes, and the engine has no way to run as one."""
    PORT = "port"
    MODEL = "model"
    """The host's worker fetches no models, and it has not the files of this one."""
    SECRET = "secret"
    """The host lacks an entry that the service refers to."""


def resources_of(engine: Engine, model: Model | None, weights: Weights | None = None) -> ResourceRequest:
    """The request of an engine with a model; `weights` are what it reads of it from the host's disk."""
    required = engine.requires
    size = model.size or (weights.size if weights else 0) if model else 0
    return ResourceRequest(
        memory=required.memory,
        gpus=required.gpus or 0,
        gpu_memory=max(required.gpu_memory or 0, size if required.gpus else 0),
        cores=required.cores,
        weights=weights,
    )


def host_memory_of(needs: ResourceRequest, *, unified: bool) -> ByteSize:
    return ByteSize(needs.memory + (needs.gpu_memory if unified else 0))
