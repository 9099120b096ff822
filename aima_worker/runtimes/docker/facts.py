"""From what the engine says of itself to a runtime's facts; what it cannot say is looked up, where it runs here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from aima_worker.runtime import RuntimeFacts

GPU_HOOK = "nvidia-container-runtime-hook"
"""An engine that found this program as it started gives GPUs to containers."""
SHIMS_OF_RUNC = {"io.containerd.runc.v2", "io.containerd.runtime.v1.linux"}
"""By which the engine calls it a second time."""
CONTAINERD_ROOT = Path("/var/lib/containerd")


def facts_of(info: Mapping[str, Any], *, kind: Literal["docker", "docker-cli"], local: bool) -> RuntimeFacts:
    """From `GET /info`; `local` says whether the engine's files are this machine's."""
    return RuntimeFacts(
        kind=kind,
        version=info["ServerVersion"],
        gpus=_announces_gpus(info) or (local and shutil.which(GPU_HOOK) is not None),
        container_runtimes=tuple(sorted(set(info.get("Runtimes") or ()) - SHIMS_OF_RUNC)),
        disk_free=_disk_free(info) if local else None,
        live_restore=bool(info.get("LiveRestoreEnabled")),
    )


def _announces_gpus(info: Mapping[str, Any]) -> bool:
    return "nvidia" in (info.get("Runtimes") or {}) or any(
        "nvidia.com/gpu" in str(device.get("ID")) for device in info.get("DiscoveredDevices") or []
    )


def _disk_free(info: Mapping[str, Any]) -> int | None:
    roots = [Path(info["DockerRootDir"])]
    if any("containerd.snapshotter" in str(each) for each in info.get("DriverStatus") or []):
        roots.append(CONTAINERD_ROOT)
    free = [usage.f_bavail * usage.f_frsize for usage in map(os.statvfs, filter(Path.exists, roots))]
    return min(free, default=None)
