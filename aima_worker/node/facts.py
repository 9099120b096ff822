"""What this host announces: what stays is found once (`hardware.py`), the rest is read anew at each call."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil

from aima_core.domain.hosts import Accelerator, HostFacts, ImageOnHost
from aima_core.domain.ids import HostName, Route
from aima_core.domain.resources import HostCapacity
from aima_core.errors import DockerUnavailable, EngineRefused
from aima_core.settings import Settings
from aima_core.system.state_dir import mint
from aima_worker.node.hardware import Hardware, hardware, memory_reserve
from aima_worker.runtime import ContainerRuntime, RuntimeFacts

MOST_IMAGES = 300
"""That are announced, the newest: every listing of hosts carries them."""


def host_facts(
    settings: Settings, runtime: ContainerRuntime, *, clock_offset: Callable[[], float] = lambda: 0.0
) -> HostFacts:
    """Raises BrokerUnavailable where `clock_offset` does."""
    has, host = hardware(settings), settings.host
    told, images, answers = _of_the_runtime(runtime)
    return HostFacts(
        name=host.name,
        identity=minted_identity(settings.state_dir.expanduser()),
        arch=has.arch,
        address=host.address,
        accelerators=has.accelerators,
        unified_memory=has.unified_memory,
        cores=has.cores,
        memory=has.memory,
        memory_reserve=memory_reserve(settings, has.memory, unified=has.unified_memory),
        slots=host.slots,
        disk_free=told.disk_free or psutil.disk_usage("/").free,
        runtime=told.kind,
        runtime_answers=answers,
        runtime_version=told.version,
        container_runtimes=told.container_runtimes,
        gives_gpus=told.gpus,
        images=tuple(images[:MOST_IMAGES]),
        allows=host.images,
        clock_offset=clock_offset(),
        ports=(host.ports[0], host.ports[-1]),
        routes=_routes(host.name, has),
        labels=host.labels,
        version=version("aima-engines"),
    )


def minted_identity(state_dir: Path) -> str:
    """This host's own, made once: machine ids come alike from the factory, and names and addresses change."""
    return mint(state_dir / "identity", lambda: f"{uuid.uuid4()}\n")


def _routes(name: HostName, has: Hardware) -> tuple[Route, ...]:
    """The queues it takes starts and pulls from: its own, one for each kind of accelerator, the CPU's."""
    kinds = dict.fromkeys([*(each.kind for each in has.accelerators), "cpu"])
    return Route.to_host(name), *(Route(f"{kind}.{has.arch}") for kind in kinds)


def _of_the_runtime(runtime: ContainerRuntime) -> tuple[RuntimeFacts, list[ImageOnHost], bool]:
    """Its facts and images, and whether it answers."""
    try:
        return runtime.facts(), runtime.images(), True
    except (DockerUnavailable, EngineRefused):
        return RuntimeFacts(kind="docker", version="unknown", gpus=False, disk_free=None), [], False


def capacity_of(facts: HostFacts, *, measured: bool) -> HostCapacity:
    """`measured` looks at what the kernel has left, too; not where the memory is only said to be there."""
    memory = facts.memory - facts.memory_reserve
    left = available_memory() - facts.memory_reserve
    return HostCapacity(
        memory=memory,
        available=max(0, left) if measured else memory,
        gpus=tuple(_id(gpu, at) for at, gpu in enumerate(facts.accelerators)),
        unified=facts.unified_memory,
        slots=facts.slots,
    )


def available_memory() -> int:
    """Bytes that the kernel could give without swapping; of CPU and GPU where they share them."""
    return psutil.virtual_memory().available


def _id(gpu: Accelerator, at: int) -> str:
    """Where it has none, its place in the list, as drivers count."""
    return gpu.id or str(at)
