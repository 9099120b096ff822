"""Whether a host would do for a start or a pull, and every reason why it would not.

What is only so just now, such as memory that another engine holds, is told apart from what will never do. The claim
decides, in Redis and at once; this tells beforehand, and to people, what it would decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

from aima_core.domain.ids import Route, ServiceId
from aima_core.domain.resources import Allocation, ResourceRequest, host_memory_of
from aima_core.domain.services import Accelerator, Host
from aima_core.domain.units import format_size

ROOM_FOR_EXTRACTION = 1.2
"""An image needs about this times its size while it is being pulled."""


class ObstacleKind(StrEnum):
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
    SLOTS = "slots"
    DISK = "disk"
    IMAGE_NOT_ALLOWED = "image_not_allowed"
    NATIVE = "native"
    """The host runs native processes, and the engine has no way to run as one."""
    PORT = "port"


class Obstacle(NamedTuple):
    kind: ObstacleKind
    sentence: str
    """Goes on after the host's name, such as `is drained`."""
    transient: bool
    """It may be otherwise later, without anybody changing the host."""


class PlacementRequirements(NamedTuple):
    """What is looked for a place for."""

    routes: tuple[Route, ...]
    """Any of which would do; empty where the host was named."""
    resources: ResourceRequest
    service: ServiceId | None = None
    """None for a pull, which needs no room but a slot."""
    images: tuple[str, ...] = ()
    image_size: int | None = None
    native: bool = True
    """The engine can run as a native process, too."""
    port: int | None = None
    """The host's port that was asked for."""
    subject: str = ""
    """Named in messages, such as the engine's name."""


def find_obstacles(
    host: Host, wanted: PlacementRequirements, held: Mapping[ServiceId, Allocation], *, busy: int = 0
) -> list[Obstacle]:
    """Everything that speaks against it; empty when the host would do now. `busy` are those of its slots in use."""
    found = [*_whether_it_works(host, wanted, held), *_whether_it_can(host, wanted)]
    if busy >= host.slots:
        found.append(Obstacle(ObstacleKind.SLOTS, f"has all {host.slots} start slots busy", True))
    if wanted.service is not None:
        others = [holding for service, holding in held.items() if service != wanted.service]
        found += _whether_it_has_room(host, wanted.resources, others)
    return found


def permanent(reasons: Collection[Obstacle]) -> list[Obstacle]:
    """Those that do not pass by themselves."""
    return [reason for reason in reasons if not reason.transient]


def allowed_images(host: Host, images: Iterable[str]) -> list[str]:
    """Those that the host may run."""
    return [image for image in images if any(fnmatchcase(image, pattern) for pattern in host.allows)]


def image_there(host: Host, images: Iterable[str]) -> str | None:
    """The first of them that the host has, as far as it has told."""
    here = {image.reference for image in host.images}
    return next((image for image in images if image in here), None)


def describe(host: Host, reasons: Collection[Obstacle]) -> str:
    """`spark-01 is drained and has 20 GB of 92 GB free`."""
    return f"{host.name} {' and '.join(reason.sentence for reason in reasons)}"


def _whether_it_works(
    host: Host, wanted: PlacementRequirements, held: Mapping[ServiceId, Allocation]
) -> list[Obstacle]:
    found = []
    if not host.live:
        found.append(Obstacle(ObstacleKind.OFFLINE, "is not live", True))
    elif not host.runtime_answers:
        found.append(Obstacle(ObstacleKind.DOCKER_AWAY, "has no Docker Engine that answers", True))
    if host.drained_since is not None and wanted.service is not None and wanted.service not in held:
        found.append(Obstacle(ObstacleKind.DRAINED, "is drained", True))
    return found


def _whether_it_can(host: Host, wanted: PlacementRequirements) -> list[Obstacle]:
    found = [*_whether_it_is_of_the_kind(host, wanted.routes), *_whether_it_leases(host, wanted.port)]
    if wanted.resources.cores > host.cores:
        found.append(Obstacle(ObstacleKind.CORES, f"has {host.cores} of {wanted.resources.cores} cores", False))
    if host.runtime == "process":
        return found + _whether_it_runs_natively(wanted)
    return found + _whether_it_can_have_the_image(host, wanted)


def _whether_it_runs_natively(wanted: PlacementRequirements) -> list[Obstacle]:
    return [] if wanted.native else [Obstacle(ObstacleKind.NATIVE, "runs only engines with a `native` section", False)]


def _whether_it_can_have_the_image(host: Host, wanted: PlacementRequirements) -> list[Obstacle]:
    if not wanted.images:
        return []
    allowed = allowed_images(host, wanted.images)
    if not allowed:
        return [Obstacle(ObstacleKind.IMAGE_NOT_ALLOWED, f"does not allow the image {wanted.images[0]}", False)]
    space = int((wanted.image_size or 0) * ROOM_FOR_EXTRACTION)
    if space <= host.disk_free or image_there(host, allowed):
        return []
    sentence = f"has {format_size(host.disk_free)} of disk free for an image that needs {format_size(space)}"
    return [Obstacle(ObstacleKind.DISK, sentence, True)]


def _whether_it_is_of_the_kind(host: Host, routes: tuple[Route, ...]) -> list[Obstacle]:
    if not routes or set(routes) & set(host.routes):
        return []
    classes = [route.split(".") for route in routes]
    if not (kinds := [kind for kind, arch in classes if arch == host.arch]):
        arches = dict.fromkeys(arch for _, arch in classes)
        return [Obstacle(ObstacleKind.ARCH, f"is {host.arch} rather than {' or '.join(arches)}", False)]
    lacks = f"has no {' or '.join(kinds)}" if "cpu" not in kinds else f"does not listen to {' or '.join(routes)}"
    return [Obstacle(ObstacleKind.ACCELERATOR, lacks, False)]


def _whether_it_leases(host: Host, port: int | None) -> list[Obstacle]:
    first, last = host.ports
    if port is None or first <= port <= last:
        return []
    return [Obstacle(ObstacleKind.PORT, f"leases the ports {first}-{last} only", False)]


def _whether_it_has_room(host: Host, needs: ResourceRequest, others: list[Allocation]) -> list[Obstacle]:
    return [*_whether_it_has_memory(host, needs, others), *_whether_it_has_gpus(host, needs, others)]


def _whether_it_has_memory(host: Host, needs: ResourceRequest, others: list[Allocation]) -> list[Obstacle]:
    wanted, most = host_memory_of(needs, unified=host.unified_memory), host.memory - host.memory_reserve
    free = max(0, most - sum(holding.memory for holding in others))
    if wanted > most:
        sentence = f"has {format_size(most)} of {format_size(wanted)} memory in all"
        return [Obstacle(ObstacleKind.MEMORY, sentence, False)]
    if wanted > free:
        sentence = f"has {format_size(free)} of {format_size(wanted)} memory to spare"
        return [Obstacle(ObstacleKind.MEMORY, sentence, True)]
    return []


def _whether_it_has_gpus(host: Host, needs: ResourceRequest, others: list[Allocation]) -> list[Obstacle]:
    if not needs.gpus:
        return []
    there = host.accelerators
    least = max(len(there), 1) if needs.gpus == "all" else needs.gpus
    if len(there) < least:
        return [Obstacle(ObstacleKind.GPUS, f"has {len(there)} of {least} GPUs", False)]
    if not host.gives_gpus:
        return [Obstacle(ObstacleKind.GPUS, "cannot give GPUs to containers", False)]
    if host.unified_memory:
        loads = any(holding.loading and holding.gpus for holding in others)
        return [Obstacle(ObstacleKind.LOADING, "is loading another model", True)] if loads else []
    return _whether_its_gpus_do(there, least, needs, others)


def _whether_its_gpus_do(
    there: tuple[Accelerator, ...], least: int, needs: ResourceRequest, others: list[Allocation]
) -> list[Obstacle]:
    biggest = sorted((gpu.memory for gpu in there if gpu.memory is not None), reverse=True)[:least]
    if len(biggest) == least and needs.gpu_memory > sum(biggest):  # where one has not told, the engine will
        sentence = f"has {format_size(sum(biggest))} of {format_size(needs.gpu_memory)} GPU memory"
        return [Obstacle(ObstacleKind.GPU_MEMORY, sentence, False)]
    in_use = {gpu for holding in others for gpu in holding.gpus}
    free = len(there) - len(in_use)
    return [Obstacle(ObstacleKind.GPUS, f"has {max(0, free)} of {least} GPUs free", True)] if free < least else []
