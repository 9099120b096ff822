"""NVML as a fixture of `accelerators/` recorded it, with the library's own errors and a count of open handles."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

from aima_worker.node.accelerators import DetectedAccelerators, Machine, detect
from aima_worker.node.nvml import Reading, read

MACHINES = sorted(Path(__file__).with_name("accelerators").glob("*.json"))


class RecordedNvml:
    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVMLError_FunctionNotFound = pynvml.NVMLError_FunctionNotFound
    NVMLError_InvalidArgument = pynvml.NVMLError_InvalidArgument
    NVMLError_NotFound = pynvml.NVMLError_NotFound
    NVML_DEVICE_MIG_DISABLE = pynvml.NVML_DEVICE_MIG_DISABLE

    def __init__(self, said: dict[str, Any]) -> None:
        self.open = 0
        self._said = said

    def nvmlInit(self) -> None:
        _answer(self._said["nvmlInit"])
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self._said["devices"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        device: dict[str, Any] = self._said["devices"][index]
        return device

    def nvmlDeviceGetName(self, handle: dict[str, Any]) -> Any:
        return _answer(handle["nvmlDeviceGetName"])

    def nvmlDeviceGetUUID(self, handle: dict[str, Any]) -> Any:
        return _answer(handle["nvmlDeviceGetUUID"])

    def nvmlDeviceGetMemoryInfo(self, handle: dict[str, Any]) -> Any:
        return SimpleNamespace(total=_answer(handle["nvmlDeviceGetMemoryInfo"]))

    def nvmlDeviceGetCudaComputeCapability(self, handle: dict[str, Any]) -> Any:
        return _answer(handle["nvmlDeviceGetCudaComputeCapability"])

    def nvmlDeviceGetMigMode(self, handle: dict[str, Any]) -> Any:
        return _answer(handle.get("nvmlDeviceGetMigMode", {"error": "NotSupported"}))

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: dict[str, Any]) -> int:
        return len(handle["migDevices"])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: dict[str, Any], index: int) -> dict[str, Any]:
        instance: dict[str, Any] = _answer(handle["migDevices"][index])
        return instance


def nvml_of(name: str) -> RecordedNvml:
    return RecordedNvml(_recorded(name)["nvml"])


def reading_of(name: str) -> Reading:
    return read(nvml_of(name))


def found_on(name: str) -> DetectedAccelerators:
    """The accelerators that AIMA detects on that machine."""
    return detect(reading_of(name), Machine(**_recorded(name)["machine"]))


def _recorded(name: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(Path(__file__).with_name("accelerators").joinpath(f"{name}.json").read_text())
    return recorded


def _answer(said: Any) -> Any:
    if isinstance(said, dict) and "error" in said:
        raise getattr(pynvml, f"NVMLError_{said['error']}")
    return said
