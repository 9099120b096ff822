"""What this machine can give to engines: its memory but for the reserve, its GPUs and its start slots."""

from __future__ import annotations

import psutil

from aima_core.domain.resources import HostCapacity
from aima_core.domain.services import Accelerator, HostFacts


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
