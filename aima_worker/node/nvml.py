"""What NVML says of this machine's NVIDIA GPUs, asked by a program of its own, which is this file.

A program, for the library would cost the worker 19 MB for good, and a driver that is stuck holds for ever whoever
asked it: a program can crash or be left behind. NVML is open only while it is read. What the answers mean is decided
in `aima_worker.node.accelerators`. The program imports the standard library and NVML only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

ANSWERS_WITHIN = timedelta(seconds=10)
"""A GPU without its persistence daemon takes seconds to wake."""
PROGRAM = (sys.executable, "-I", __file__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Device:
    name: str
    uuid: str | None
    """None, like what follows, where the driver does not support the question for this device."""
    memory: int | None
    """Bytes of its own."""
    compute_capability: str | None


@dataclass(frozen=True)
class NvmlError:
    code: str
    """As the library names its errors, such as `DriverNotLoaded`; `Stuck` or `Crashed` where it gave no answer."""
    words: str


@dataclass(frozen=True)
class Reading:
    devices: tuple[Device, ...] = ()
    """Those that answered."""
    error: NvmlError | None = None
    """What kept NVML, or one of the devices, from answering."""


def nvml_reading(*, within: timedelta = ANSWERS_WITHIN, program: Sequence[str] = PROGRAM) -> Reading:
    """Read anew, in no more time than that; never raises."""
    asked = subprocess.Popen(
        program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    try:
        told, complaint = asked.communicate(timeout=within.total_seconds())
    except subprocess.TimeoutExpired:
        asked.kill()  # and not waited for: who hangs in the driver cannot even die
        for pipe in filter(None, (asked.stdout, asked.stderr)):
            pipe.close()  # which it would hold until it is reaped
        words = f"The NVIDIA driver gave no answer within {within.total_seconds():.0f} s."
        return Reading(error=NvmlError("Stuck", words))
    if asked.returncode:
        last = complaint.strip().rpartition("\n")[2]
        return Reading(error=NvmlError("Crashed", f"Reading NVML ended with status {asked.returncode}. {last}".strip()))
    return _parsed(told)


def read(nvml: Any) -> Reading:
    """What the library (the module `pynvml`) says; opened here and closed again."""
    try:
        nvml.nvmlInit()
        try:
            return _devices(nvml)
        finally:
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
    except nvml.NVMLError as refused:
        return Reading(error=_error(refused))


def _devices(nvml: Any) -> Reading:
    """One that is broken hides none of the others."""
    devices, error = [], None
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            devices.append(_device(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))
        except nvml.NVMLError as refused:
            error = NvmlError(_error(refused).code, f"GPU {index}: {refused}")
    return Reading(tuple(devices), error)


def _device(nvml: Any, handle: Any) -> Device:
    def told(question: Callable[[Any], _T]) -> _T | None:
        try:
            return question(handle)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return None

    memory = told(nvml.nvmlDeviceGetMemoryInfo)
    capability = told(nvml.nvmlDeviceGetCudaComputeCapability)
    return Device(
        name=nvml.nvmlDeviceGetName(handle),
        uuid=told(nvml.nvmlDeviceGetUUID),
        memory=memory.total or None if memory else None,  # some Jetsons answer with nothing but zeros
        compute_capability=".".join(map(str, capability)) if capability else None,
    )


def _error(refused: Exception) -> NvmlError:
    return NvmlError(type(refused).__name__.removeprefix("NVMLError_"), str(refused))


def _parsed(told: str) -> Reading:
    said = json.loads(told)
    devices = tuple(Device(**each) for each in said["devices"])
    return Reading(devices, NvmlError(**said["error"]) if said["error"] else None)


def main() -> None:
    import pynvml

    sys.stdout.write(json.dumps(asdict(read(pynvml))))


if __name__ == "__main__":
    main()
