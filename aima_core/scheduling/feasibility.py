"""Feasibility of a host for a start or a pull: every obstacle, transient or permanent.

It predicts and explains what the claim decides: the claim checks capacity again in Redis, so that a stale read here
delays an operation, and never overcommits a host.
"""

from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from math import inf
from typing import NamedTuple

from pydantic import ByteSize

from aima_core.domain.hosts import Host, device_ids
from aima_core.domain.ids import Route, ServiceId
from aima_core.domain.models import Weights
from aima_core.domain.resources import Allocation, Held, ObstacleKind, ResourceRequest, host_memory_of
from aima_core.domain.units import counted, format_size

NEEDS = "needs "
"""Begins the sentence of a capacity or a property that the host lacks."""
ROOM_FOR_EXTRACTION = 1.2
"""A pull needs about this times the size of the image on disk."""


class Obstacle(NamedTuple):
    kind: ObstacleKind
    sentence: str
    """What the host lacks, such as `drained` or `needs 8 cores (host: 2)`."""
    transient: bool
    """It may pass without a change to the host."""


class PlacementRequirements(NamedTuple):
    """What a start or pull requires of a host."""

    routes: tuple[Route, ...]
    """Any of them is accepted; empty if the host was named."""
    resources: ResourceRequest
    service: ServiceId | None = None
    """None for a pull, which needs a slot only."""
    images: tuple[str, ...] = ()
    image_size: ByteSize | None = None
    never_pulled: bool = False
    """A host that lacks the images fails the start: no registry is asked for them."""
    native: bool = True
    """The engine can also run as a native process."""
    port: int | None = None
    """The host's port that was requested."""
    secrets: tuple[str, ...] = ()
    """Entries that the host must have."""
    subject: str = ""
    """Named in messages, such as the engine's name."""


def find_obstacles(host: Host, wanted: PlacementRequirements, held: Held, *, busy: int = 0) -> list[Obstacle]:
    """Every obstacle; empty if the host is feasible now. `busy` is the number of its slots in use."""
    found = [*_check_availability(host, wanted, held), *_check_properties(host, wanted)]
    if busy >= host.slots:
        found.append(Obstacle(ObstacleKind.SLOTS, f"all {host.slots} start slots busy", True))
    if wanted.service is not None:
        found += _check_memory(host, wanted.resources, held.memory_of_others(wanted.service))
        found += _check_gpus(host, wanted.resources, held.others(wanted.service)) if wanted.resources.gpus else ()
    return found


def allocation_for(host: Host, needs: ResourceRequest, held: Held, service: ServiceId) -> Allocation:
    """What a claim would allocate on the host for a start of the service that it can run now, as loaded."""
    chosen = choose_gpus(host, needs, taken=_taken(host, held.others(service))) if needs.gpus else ()
    gpus = () if isinstance(chosen, ObstacleKind) else chosen
    return Allocation(memory=host_memory_of(needs, unified=host.unified_memory), gpus=gpus, fence=0)


def choose_gpus(host: Host, needs: ResourceRequest, *, taken: Collection[str] = ()) -> tuple[str, ...] | ObstacleKind:
    """The ids of the GPUs, as `lua/claims/claim.lua` allocates them, or the obstacle."""
    count = _gpus_wanted(host, needs)
    there = zip(device_ids(host.accelerators), host.accelerators, strict=True)
    usable = [(id, gpu.memory) for id, gpu in there if id not in taken and not (gpu.is_slice and count > 1)]
    if len(usable) < count:
        return ObstacleKind.GPUS
    biggest = sorted(usable, key=lambda gpu: -_or_unlimited(gpu[1]))
    for order in (usable, biggest):
        memory = sum(_or_unlimited(gpu) for _, gpu in order[:count])
        if host.unified_memory or memory >= needs.gpu_memory:
            return tuple(id for id, _ in order[:count])
    return ObstacleKind.GPU_MEMORY


def permanent(reasons: Collection[Obstacle]) -> list[Obstacle]:
    """Obstacles that do not pass without a change to the host."""
    return [reason for reason in reasons if not reason.transient]


@lru_cache(maxsize=256)
def allowed_images(images: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the images that match a pattern of those a host allows; cached, since most hosts allow the same."""
    return tuple(image for image in images if any(fnmatchcase(image, pattern) for pattern in patterns))


def image_there(host: Host, images: Iterable[str]) -> str | None:
    """The first of them that the host has announced."""
    here = {image.reference for image in host.images}
    return next((image for image in images if image in here), None)


def has_model_at(host: Host, path: str | None) -> bool:
    """Whether the host has announced files at or below that path."""
    return path is not None and any(f"{each}/".startswith(f"{path}/") for each in host.models or ())


def bytes_to_fetch(host: Host, weights: Weights) -> int | None:
    """Of the model's files, by what the host has announced: 0 if it has them, the rest of an interrupted fetch.

    None while its model roots or the size are not known, and of a worker whose version fetches none. Fewer are fetched
    if another revision in its store has equal files.
    """
    if has_model_at(host, weights.path):
        return 0
    stored = [each for each in host.stored or () if each.model == weights.model and weights.name in (None, each.name)]
    if any(each.verified for each in stored):
        return 0
    if host.stored is None or not weights.size or (weights.path is not None and host.models is None):
        return None
    partial = (each.received for each in stored if not each.published and weights.name)
    return max(0, weights.size - max(partial, default=0))


def locality(host: Host, needs: ResourceRequest) -> float:
    """The score of a host, of which the least is best: bytes of the model to fetch, infinite if that is unknown."""
    missing = bytes_to_fetch(host, needs.weights) if needs.weights else 0
    return inf if missing is None else missing


def has_what_is_never_pulled(host: Host, wanted: PlacementRequirements) -> bool:
    """By what it has announced, up to a minute ago: a preference, and no obstacle."""
    return not wanted.never_pulled or host.runtime == "process" or image_there(host, wanted.images) is not None


def describe(host: Host, reasons: Collection[Obstacle]) -> str:
    """`box: needs arm64 (host: amd64), 8 cores (host: 2); drained`."""
    return f"{host.name}: {joined(reason.sentence for reason in reasons)}"


def joined(sentences: Iterable[str]) -> str:
    """Several obstacles of one host, with one `needs` for all that have it."""
    needs, others = list[str](), list[str]()
    for sentence in sentences:
        (needs if sentence.startswith(NEEDS) else others).append(sentence)
    merged = [NEEDS + ", ".join(each.removeprefix(NEEDS) for each in needs)] if needs else []
    return "; ".join([*merged, *others])


def _check_availability(host: Host, wanted: PlacementRequirements, held: Held) -> Iterator[Obstacle]:
    if not host.live:
        yield Obstacle(ObstacleKind.OFFLINE, "not live", True)
    elif not host.runtime_answers:
        yield Obstacle(ObstacleKind.DOCKER_AWAY, "no Docker Engine answers", True)
    if host.memory_low is not None and wanted.service is not None:
        left, reserve = format_size(host.memory_low), format_size(host.memory_reserve)
        yield Obstacle(ObstacleKind.MEMORY, f"{left} of memory available, below its reserve of {reserve}", True)
    if host.disk_low is not None and wanted.service is not None:
        left, reserve = format_size(host.disk_low), format_size(host.disk_reserve)
        yield Obstacle(ObstacleKind.DISK, f"{left} of disk free, below its reserve of {reserve}", True)
    if host.drained_since is not None and wanted.service is not None and wanted.service not in held:
        yield Obstacle(ObstacleKind.DRAINED, "drained", True)


def _check_properties(host: Host, wanted: PlacementRequirements) -> Iterator[Obstacle]:
    yield from _check_routes(host, wanted.routes)
    first, last = host.ports
    if wanted.port is not None and not first <= wanted.port <= last:
        yield Obstacle(ObstacleKind.PORT, f"leases ports {first}-{last} only", False)
    if wanted.resources.cores > host.cores:
        yield Obstacle(
            ObstacleKind.CORES, f"needs {counted(wanted.resources.cores, 'core')} (host: {host.cores})", False
        )
    yield from _check_secrets(host, wanted.secrets)
    if wanted.resources.weights is not None:
        yield from _check_weights(host, wanted.resources.weights, starts=wanted.service is not None)
    if host.runtime != "process":
        yield from _check_image(host, wanted)
    elif not wanted.native:
        yield Obstacle(ObstacleKind.NATIVE, "runs only engines with a `native` section", False)


def _check_secrets(host: Host, wanted: tuple[str, ...]) -> Iterator[Obstacle]:
    for entry in [entry for entry in wanted if entry not in host.secrets]:
        remedy = f"create {host.secrets_at}/{entry} there, mode 600" if host.secrets_at else "its worker is too old"
        yield Obstacle(ObstacleKind.SECRET, f"has no secret {entry} ({remedy})", False)


def _check_weights(host: Host, weights: Weights, *, starts: bool) -> Iterator[Obstacle]:
    """The disk counts for a start: a pull fails with the numbers at once. As `lacks_disk` in `lua/claims/claim.lua`."""
    if host.stored is None and weights.name is not None and not has_model_at(host, weights.path):
        yield Obstacle(ObstacleKind.MODEL, "fetches no models (its worker is too old)", False)
    disk = host.model_disk
    if disk is None or not starts or not (missing := bytes_to_fetch(host, weights)):
        return
    space, reserved = f"needs {format_size(missing)} of disk for the model", f"{format_size(disk.reserve)} reserved"
    if missing + disk.reserve > disk.total:
        yield Obstacle(ObstacleKind.DISK, f"{space} (host: {format_size(disk.total)} in all, {reserved})", False)
    elif missing > disk.usable + _awaited(host, weights):
        others = f", {format_size(disk.awaited)} for running fetches" if disk.awaited else ""
        yield Obstacle(ObstacleKind.DISK, f"{space} (host: {format_size(disk.free)} free, {reserved}{others})", True)


def _awaited(host: Host, weights: Weights) -> int:
    """Bytes that a running fetch of these very files has still to write: the start joins it."""
    same = (each for each in host.stored or () if each.fetching and each.name == weights.name)
    return sum(each.size - each.received for each in same if each.model == weights.model)


def _check_image(host: Host, wanted: PlacementRequirements) -> Iterator[Obstacle]:
    if not wanted.images:
        return
    space = int((wanted.image_size or 0) * ROOM_FOR_EXTRACTION)
    if not (allowed := allowed_images(wanted.images, host.allows)):
        yield Obstacle(ObstacleKind.IMAGE_NOT_ALLOWED, f"does not allow the image {wanted.images[0]}", False)
    elif space > host.disk_free and not image_there(host, allowed):
        sentence = f"needs {format_size(space)} of disk for the image (host: {format_size(host.disk_free)} free)"
        yield Obstacle(ObstacleKind.DISK, sentence, True)


def _check_routes(host: Host, routes: tuple[Route, ...]) -> Iterator[Obstacle]:
    if not routes or set(routes) & set(host.routes):
        return
    classes = [route.split(".") for route in routes]
    if not (kinds := [kind for kind, arch in classes if arch == host.arch]):
        arches = dict.fromkeys(arch for _, arch in classes)
        yield Obstacle(ObstacleKind.ARCH, f"needs {' or '.join(arches)} (host: {host.arch})", False)
    elif "cpu" in kinds:
        yield Obstacle(
            ObstacleKind.ACCELERATOR, f"needs route {' or '.join(routes)} (host: {', '.join(host.routes)})", False
        )
    else:
        yield Obstacle(ObstacleKind.ACCELERATOR, f"needs {' or '.join(kinds)} (host: none)", False)


def _check_memory(host: Host, needs: ResourceRequest, allocated: int) -> Iterator[Obstacle]:
    """`allocated` to others."""
    wanted, most = host_memory_of(needs, unified=host.unified_memory), host.memory - host.memory_reserve
    free = max(0, most - allocated)
    if wanted > most:
        sentence = f"needs {format_size(wanted)} memory (host: {format_size(most)})"
        yield Obstacle(ObstacleKind.MEMORY, sentence, False)
    elif wanted > free:
        sentence = f"needs {format_size(wanted)} memory (host: {format_size(free)} free)"
        yield Obstacle(ObstacleKind.MEMORY, sentence, True)


def _check_gpus(host: Host, needs: ResourceRequest, others: list[Allocation]) -> Iterator[Obstacle]:
    ever, now = choose_gpus(host, needs), choose_gpus(host, needs, taken=_taken(host, others))
    if ever is ObstacleKind.GPUS:
        yield Obstacle(ever, f"needs {counted(_gpus_wanted(host, needs), 'GPU')} (host: {_gpus_there(host)})", False)
    elif not host.gives_gpus:
        yield Obstacle(ObstacleKind.GPUS, "cannot give GPUs to containers", False)
    elif isinstance(ever, ObstacleKind) or isinstance(now, ObstacleKind):
        yield _lack_of_gpus(host, needs, others, ever, now)
    elif host.unified_memory and any(holding.loading and holding.gpus for holding in others):
        yield Obstacle(ObstacleKind.LOADING, "loading another model", True)


def _lack_of_gpus(
    host: Host,
    needs: ResourceRequest,
    others: list[Allocation],
    ever: tuple[str, ...] | ObstacleKind,
    now: tuple[str, ...] | ObstacleKind,
) -> Obstacle:
    count, taken = _gpus_wanted(host, needs), _taken(host, others)
    there = dict(zip(device_ids(host.accelerators), host.accelerators, strict=True))
    free = [gpu for id, gpu in there.items() if id not in taken]
    if ever is not ObstacleKind.GPU_MEMORY and now is ObstacleKind.GPUS:
        return Obstacle(now, f"needs {counted(count, 'GPU')} (host: {len(free)} free)", True)
    lasts = ever is ObstacleKind.GPU_MEMORY
    considered = list(there.values()) if lasts else free
    most = sum(sorted((gpu.memory or 0 for gpu in considered), reverse=True)[:count])
    has = f"{format_size(most)}{'' if lasts else ' free'}"
    return Obstacle(
        ObstacleKind.GPU_MEMORY, f"needs {format_size(needs.gpu_memory)} GPU memory (host: {has})", not lasts
    )


def _gpus_wanted(host: Host, needs: ResourceRequest) -> int:
    return max(len(host.accelerators), 1) if needs.gpus == "all" else needs.gpus


def _gpus_there(host: Host) -> str:
    slices = sum(gpu.is_slice for gpu in host.accelerators)
    limit = ", slices of which an engine can use one" if slices else ""
    return f"{len(host.accelerators)}{limit}"


def _taken(host: Host, others: Iterable[Allocation]) -> set[str]:
    """Engines share a GPU that shares the memory of the host."""
    return set() if host.unified_memory else {gpu for holding in others for gpu in holding.gpus}


def _or_unlimited(memory: int | None) -> float:
    """A GPU of unknown memory is left to the engine."""
    return inf if memory is None else memory
