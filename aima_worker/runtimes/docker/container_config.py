"""Builds the body of a create call from a spec: the only place that grants a container its privileges. Pure.

User input reaches no other field: no added capabilities, no host network, no devices except the GPUs requested, and
read-only mounts. The engine never restarts a container: restarts are the worker's.
"""

from typing import Any

from aima_worker.runtime import ContainerSpec, Mount

FINGERPRINT_LABEL = "aima.fingerprint"
"""The spec's hash. A container without it is not AIMA's."""

OOM_SCORE_ADJUSTMENT = 500
"""So that the kernel's out-of-memory killer selects an engine before the worker, the Docker Engine and sshd."""


def container_config(spec: ContainerSpec) -> dict[str, Any]:
    """The body of the engine's `POST /containers/create`."""
    port = f"{spec.container_port}/tcp"
    return {
        "Image": spec.image,
        **({"Entrypoint": list(spec.entrypoint)} if spec.entrypoint else {}),
        "Cmd": list(spec.command),
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "Labels": {**spec.labels, FINGERPRINT_LABEL: spec.spec_hash},
        "ExposedPorts": {port: {}},
        "HostConfig": {
            **_limits(spec),
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Init": True,
            "OomScoreAdj": OOM_SCORE_ADJUSTMENT,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "50m", "max-file": "3"}},
            "Mounts": [_mount(mount) for mount in spec.mounts],
            "PortBindings": {port: [{"HostIp": spec.host_address, "HostPort": str(spec.host_port)}]},
            "DeviceRequests": _device_requests(spec),
        },
    }


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
