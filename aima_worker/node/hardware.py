"""What this machine has that stays while the worker runs: found once; the operator's word goes before what is found."""

from __future__ import annotations

import platform
from functools import cache

import psutil
import structlog

from aima_core.domain.catalog import Arch
from aima_core.domain.hosts import Accelerator
from aima_core.errors import BadSettings
from aima_core.settings import AcceleratorOverride, Settings
from aima_worker.node import accelerators
from aima_worker.node.accelerators import Found, Trouble, this_machine
from aima_worker.node.nvml import nvml_reading
from aima_worker.runtime import FrozenModel

RESERVE = 1 / 20
"""Of the memory, left free of engines."""
SHARED_RESERVE = 1 / 10
"""The same where CPU and GPU share it: what overdraws it there can hang the whole machine."""
_ARCHES: dict[str, Arch] = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_log = structlog.get_logger()


class Hardware(FrozenModel):
    arch: Arch
    cores: int
    memory: int
    """Bytes."""
    accelerators: tuple[Accelerator, ...]
    unified_memory: bool
    """CPU and GPU share `memory`."""
    trouble: Trouble | None = None
    """Why GPUs that are there cannot be used."""


def hardware(settings: Settings) -> Hardware:
    """NVML is asked at the first call only, and not at all where the settings name the accelerators."""
    told = settings.host.facts
    there = _found() if told.accelerators is None else _as_told(told.accelerators)
    shared = accelerators.shares_memory(there.accelerators) if told.unified_memory is None else told.unified_memory
    return Hardware(
        arch=arch(told.arch),
        cores=told.cores or psutil.cpu_count() or 1,
        memory=told.memory or psutil.virtual_memory().total,
        accelerators=there.accelerators,
        unified_memory=shared,
        trouble=there.trouble,
    )


def arch(told: Arch | None = None) -> Arch:
    """The one told, else this machine's, in the words of container images. Raises BadSettings on an unknown one."""
    machine = platform.machine().lower()
    if told is None and machine not in _ARCHES:
        raise BadSettings(
            detail=f"AIMA does not know the architecture {machine}.", where="nothing; use another machine"
        )
    return told or _ARCHES[machine]


def memory_reserve(settings: Settings, memory: int, *, unified: bool) -> int:
    """Bytes of `memory` that starts leave free."""
    told = settings.host.memory_reserve
    return int(memory * (SHARED_RESERVE if unified else RESERVE)) if told is None else int(told)


@cache
def _found() -> Found:
    # Kept, since the queues of a worker are those of its accelerators as it starts.
    there = accelerators.found(nvml_reading(), this_machine())
    if there.trouble:
        _log.warning("GPUs cannot be used", reason=there.trouble.said, remedy=there.trouble.mend)
    return there


def _as_told(told: tuple[AcceleratorOverride, ...]) -> Found:
    return Found(accelerators=tuple(Accelerator(**each.model_dump()) for each in told))
