"""What a start needs of a host while it is there, and what a host holds for those that are."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from aima_core.domain.catalog import Engine, Model
from aima_core.domain.ids import WireModel


class ResourceRequest(WireModel):
    """Of a pull, nothing but a slot while it is under way."""

    memory: int = 0
    """Bytes of the host's."""
    gpus: int | Literal["all"] = 0
    gpu_memory: int = 0
    """Bytes on the GPUs; on the host's own memory where the two are one."""
    cores: int = 0
    """That the host must have; several engines may share them."""


class HostCapacity(WireModel):
    """What a host can give, as its worker finds it at one moment; what it has given is in Redis."""

    memory: int
    """Bytes that all engines together may need: the host's, but for its reserve."""
    available: int
    """Bytes that the kernel has left just now, but for the reserve."""
    gpus: tuple[str, ...] = ()
    """The ids of its devices."""
    unified: bool = False
    """CPU and GPU share the memory: then engines share the GPU, too, and load one at a time."""
    slots: int
    """Starts and pulls under way at once."""


class Allocation(WireModel):
    """What a host has given to one service."""

    memory: int
    gpus: tuple[str, ...] = ()
    loading: bool = False
    """Its memory is not all taken yet."""
    fence: int
    """The operation's that it was given to."""

    def __str__(self) -> str:
        """As the scripts write and read it."""
        return f"{self.memory} {int(self.loading)} {self.fence} {','.join(self.gpus)}"

    @classmethod
    def parse(cls, text: str) -> Allocation:
        memory, loading, fence, gpus = text.split(" ")
        return cls(memory=int(memory), loading=loading == "1", fence=int(fence), gpus=_listed(gpus))


class ObstacleKind(StrEnum):
    """Why a host cannot run an operation: as feasibility explains it to people, and as a claim is refused."""

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


def resources_of(engine: Engine, model: Model | None) -> ResourceRequest:
    """What the engine's requirements and the model's weights come to."""
    required = engine.requires
    on_gpu = required.gpus is not None
    return ResourceRequest(
        memory=required.memory,
        gpus=required.gpus or 0,
        gpu_memory=max(required.gpu_memory or 0, model.size if model and on_gpu else 0),
        cores=required.cores,
    )


def host_memory_of(needs: ResourceRequest, *, unified: bool) -> int:
    """Bytes of the host's memory that it takes."""
    return needs.memory + (needs.gpu_memory if unified else 0)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()
