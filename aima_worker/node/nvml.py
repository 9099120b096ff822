"""Reads NVML in a subprocess, which is this file: NVIDIA's GPUs as their driver reports them.

The library would cost the worker 19 MB for good, and a driver that hangs blocks its caller for ever: a subprocess can
crash or be abandoned. It imports the standard library and NVML only.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

READ_TIMEOUT = timedelta(seconds=10)
"""A GPU without its persistence daemon takes seconds to wake."""
NO_INSTANCE = "NoMigInstance"
"""The code of the error for a GPU that CUDA cannot use: NVML itself reports none."""
PROGRAM = (sys.executable, "-I", __file__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Device:
    name: str
    uuid: str | None
    """None, like the fields below, if the driver does not support the query for this device."""
    memory: int | None
    """Bytes of its own memory."""
    compute_capability: str | None


@dataclass(frozen=True)
class NvmlError:
    code: str
    """The library's name of the error, such as `DriverNotLoaded`; `Stuck` or `Crashed` if it did not answer."""
    words: str


@dataclass(frozen=True)
class Reading:
    devices: tuple[Device, ...] = ()
    """The devices that answered."""
    error: NvmlError | None = None
    """Why NVML, or one of the devices, did not answer."""


def nvml_reading(*, within: timedelta = READ_TIMEOUT, program: Sequence[str] = PROGRAM) -> Reading:
    """A fresh reading; a timeout or a crash of the subprocess becomes its error, and nothing is raised."""
    reader = subprocess.Popen(
        program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    try:
        answer, complaint = reader.communicate(timeout=within.total_seconds())
    except subprocess.TimeoutExpired:
        reader.kill()  # not waited for: a hang in the driver blocks even its death
        for pipe in filter(None, (reader.stdout, reader.stderr)):
            pipe.close()  # else held until the process is reaped
        words = f"The NVIDIA driver gave no answer within {within.total_seconds():.0f} s."
        return Reading(error=NvmlError("Stuck", words))
    if reader.returncode:
        last = complaint.strip().rpartition("\n")[2]
        return Reading(
            error=NvmlError("Crashed", f"Reading NVML ended with status {reader.returncode}. {last}".strip())
        )
    reading = json.loads(answer)
    devices = tuple(Device(**each) for each in reading["devices"])
    return Reading(devices, NvmlError(**reading["error"]) if reading["error"] else None)


def read(nvml: Any) -> Reading:
    """Reads the library (the module `pynvml`), which is opened and closed here."""
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
    """A broken device hides none of the others."""
    devices, error = [], None
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found = _usable(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            if not found:
                error = NvmlError(NO_INSTANCE, f"GPU {index} is in MIG mode and has no instance.")
            devices += found
        except nvml.NVMLError as refused:
            error = NvmlError(_error(refused).code, f"GPU {index}: {refused}")
    return Reading(tuple(devices), error)


def _usable(nvml: Any, handle: Any) -> list[Device]:
    """The GPU, or its instances in MIG mode, where CUDA can use nothing else. Empty if it has none."""
    device, mode = _device(nvml, handle), _query(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] == nvml.NVML_DEVICE_MIG_DISABLE:
        return [device]
    instances = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError_NotFound):  # instances leave gaps
            instance = _device(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
            instances.append(replace(instance, compute_capability=device.compute_capability))
    return instances


def _device(nvml: Any, handle: Any) -> Device:
    memory = _query(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _query(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    return Device(
        name=nvml.nvmlDeviceGetName(handle),
        uuid=_query(nvml, nvml.nvmlDeviceGetUUID, handle),
        memory=memory.total or None if memory else None,  # some Jetsons answer with zeros
        compute_capability=".".join(map(str, capability)) if capability else None,
    )


def _query(nvml: Any, function: Callable[[Any], _T], handle: Any) -> _T | None:
    """None if the driver, or this device, does not support the query; an instance has no compute capability."""
    try:
        return function(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_InvalidArgument):
        return None


def _error(refused: Exception) -> NvmlError:
    return NvmlError(type(refused).__name__.removeprefix("NVMLError_"), str(refused))


def main() -> None:
    import pynvml

    sys.stdout.write(json.dumps(asdict(read(pynvml))))


if __name__ == "__main__":
    main()
