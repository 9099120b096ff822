"""This machine's hardware, detected once per process; what the operator's settings name overrides the detection."""

import platform
from functools import cache

import psutil
import structlog

from aima_core.domain.catalog import Arch
from aima_core.domain.hosts import Accelerator
from aima_core.errors import BadSettings
from aima_core.settings import Settings
from aima_worker.node.accelerators import DetectedAccelerators, GpuProblem, detect, shares_memory, this_machine
from aima_worker.node.nvml import nvml_reading
from aima_worker.runtime import FrozenModel

RESERVE = 1 / 20
"""Of the memory, left free of engines."""
SHARED_RESERVE = 1 / 10
"""The same where CPU and GPU share it: overcommitting it can hang the whole machine."""
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
    trouble: GpuProblem | None = None
    """Why the machine has GPUs that cannot be used."""


def hardware(settings: Settings) -> Hardware:
    """Reads NVML at the first call, and not at all if the settings name the accelerators."""
    overrides = settings.host.facts
    if overrides.accelerators is None:
        detected = _detected()
    else:
        named = tuple(Accelerator.model_validate(dict(each)) for each in overrides.accelerators)
        detected = DetectedAccelerators(accelerators=named)
    shared = shares_memory(detected.accelerators) if overrides.unified_memory is None else overrides.unified_memory
    return Hardware(
        arch=arch(overrides.arch),
        cores=overrides.cores or psutil.cpu_count() or 1,
        memory=overrides.memory or psutil.virtual_memory().total,
        accelerators=detected.accelerators,
        unified_memory=shared,
        trouble=detected.trouble,
    )


def arch(override: Arch | None = None) -> Arch:
    """The machine's architecture, in the words of container images. Raises BadSettings if it is unknown."""
    machine = platform.machine().lower()
    if override is None and machine not in _ARCHES:
        raise BadSettings(
            detail=f"AIMA does not know the architecture {machine}.", where="nothing; use another machine"
        )
    return override or _ARCHES[machine]


def memory_reserve(settings: Settings, memory: int, *, unified: bool) -> int:
    """Bytes of `memory` that starts leave free."""
    override = settings.host.memory_reserve
    return int(memory * (SHARED_RESERVE if unified else RESERVE)) if override is None else int(override)


@cache
def _detected() -> DetectedAccelerators:
    # Cached, since a worker's queues are fixed at its start, and follow from its accelerators.
    detected = detect(nvml_reading(), this_machine())
    if detected.trouble:
        _log.warning("GPU unusable", reason=detected.trouble.said, fix=detected.trouble.mend)
    return detected
