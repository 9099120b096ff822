"""Builds the body of a create call from a spec: the only place that grants a container its privileges. Pure.

User input reaches no other field: no added capabilities, no host network, no devices except the GPUs requested, and
read-only mounts, tmpfs of a bounded size. The engine never restarts a container: restarts are the worker's.
"""

from collections.abc import Mapping
from typing import Any

from aima_worker.runtime import SECRETS_VARIABLE, ContainerSpec, Mount
from aima_worker.runtimes.docker.network import EngineNetwork
from aima_worker.secret_files import FILES

FINGERPRINT_LABEL = "aima.fingerprint"
"""The spec's hash. A container without it is not AIMA's."""

SECRETS_TARGET = "/run/secrets"

OOM_SCORE_ADJUSTMENT = 500
"""So that the kernel's out-of-memory killer selects an engine before the worker, the Docker Engine and sshd."""

NO_GPU = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""NVIDIA's runtime, where it is the Docker Engine's default, grants the GPUs that an image's environment names."""


def container_config(
    spec: ContainerSpec, *, quota: bool = True, secret_variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The body of the engine's `POST /containers/create`; without `quota`, the spec's limit of the disk is left out."""
    port = f"{spec.container_port}/tcp"
    found_at = {SECRETS_VARIABLE: SECRETS_TARGET} if spec.secrets and spec.secrets.files else {}
    environment = {**({} if spec.gpus else NO_GPU), **spec.environment, **(secret_variables or {}), **found_at}
    return {
        "Image": spec.image,
        **({"Entrypoint": list(spec.entrypoint)} if spec.entrypoint else {}),
        "Cmd": list(spec.command),
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": {**spec.labels, FINGERPRINT_LABEL: spec.spec_hash},
        "ExposedPorts": {port: {}},
        "HostConfig": {
            **_limits(spec),
            **({"StorageOpt": {"size": str(spec.disk)}} if quota and spec.disk is not None else {}),
            "ReadonlyRootfs": spec.read_only,
            "Tmpfs": {path: f"size={size},mode=1777" for path, size in spec.tmpfs.items()},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Init": True,
            **({"NetworkMode": EngineNetwork(spec.network).name} if spec.network else {}),
            "OomScoreAdj": OOM_SCORE_ADJUSTMENT,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "50m", "max-file": "3"}},
            "Mounts": [_mount(mount) for mount in (*spec.mounts, *_secret_files(spec))],
            "PortBindings": {port: [{"HostIp": spec.host_address, "HostPort": str(spec.host_port)}]},
            "DeviceRequests": _device_requests(spec),
        },
    }


def _secret_files(spec: ContainerSpec) -> list[Mount]:
    if spec.secrets is None or not spec.secrets.files:
        return []
    return [Mount(source=f"{spec.secrets.source}/{FILES}", target=SECRETS_TARGET)]


def _mount(mount: Mount) -> dict[str, Any]:
    """Without what is mounted below the directory: that would stay writable, and was not checked."""
    bind = {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": True}
    return {**bind, "BindOptions": {"NonRecursive": True}}


def _limits(spec: ContainerSpec) -> dict[str, Any]:
    limits: dict[str, Any] = {"PidsLimit": spec.pids}
    if spec.memory is not None:
        limits |= {"Memory": spec.memory, "MemorySwap": spec.memory}
    if spec.cores is not None:
        limits["NanoCpus"] = round(spec.cores * 1e9)
    if spec.shared_memory is not None:
        limits["ShmSize"] = spec.shared_memory
    return limits


def _device_requests(spec: ContainerSpec) -> list[dict[str, Any]]:
    if spec.gpus is None:
        return []
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]]}
    if isinstance(spec.gpus, tuple):
        return [request | {"DeviceIDs": list(spec.gpus)}]
    return [request | {"Count": -1 if spec.gpus == "all" else spec.gpus}]
