"""An engine's YAML, or an order that carries one, asks for more power than an engine has."""

from __future__ import annotations

from typing import Any

import pytest
from lab.commands import a_start_of
from pydantic import ValidationError

from aima_core.domain.operations import StartService
from aima_worker.runtime import ContainerSpec, Mount
from aima_worker.runtimes.docker.container_config import container_config

CODE_LOADED = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "LOCPATH",
    "MALLOC_TRACE",
    "RES_OPTIONS",
    "BASH_ENV",
    "ENV",
    "IFS",
    "PS4",
    "SHELLOPTS",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PERL5LIB",
    "RUBYOPT",
    "NODE_OPTIONS",
    "JAVA_TOOL_OPTIONS",
    "OPENSSL_CONF",
    "PATH",
    "HOME",
]
DEVICES_CHOSEN = ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "CUDA_VISIBLE_DEVICES"]
OURS = ["AIMA_PROCESS", "AIMA_SIGNING_KEY", "DOCKER_HOST"]
GRANTED = {
    "Memory", "MemorySwap", "NanoCpus", "ShmSize", "PidsLimit", "CapDrop", "SecurityOpt", "Init", "RestartPolicy",
    "OomScoreAdj", "LogConfig", "Mounts", "PortBindings", "DeviceRequests", "NetworkMode",
    "ReadonlyRootfs", "Tmpfs",
}  # fmt: skip


def received(**engine: Any) -> StartService:
    """The command as a worker reads it from an order."""
    text = a_start_of().model_dump(mode="json")
    text["engine"] |= engine
    return StartService.model_validate(text)


@pytest.mark.parametrize("variable", [*CODE_LOADED, *DEVICES_CHOSEN, *OURS])
def test_a_variable_that_loads_code_or_chooses_devices_is_refused(variable: str) -> None:
    with pytest.raises(ValidationError, match=f"'{variable}' may not be set"):
        received(environment={variable: "/models/evil"})


@pytest.mark.parametrize(
    "variable", ["VLLM_ATTENTION_BACKEND", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "LANG", "ENVIRONMENT"]
)
def test_a_variable_of_the_engine_is_accepted(variable: str) -> None:
    assert received(environment={variable: "1"}).engine.environment == {variable: "1"}


@pytest.mark.parametrize(
    "target",
    [
        "/etc",
        "/etc/ssl",
        "/usr/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/local",
        "/usr/local/bin",
        "/lib64",
        "/bin",
        "/sbin/init",
        "/proc/1",
        "/sys",
        "/dev",
        "/dev/shm",
        "/run/secrets",
        "/boot",
        "/usr",
        "/var",
        "/root",
        "/home",
        "/tmp",
        "/var/run",
    ],
)
def test_a_mount_over_a_path_of_the_system_is_refused(target: str) -> None:
    with pytest.raises(ValidationError, match="belongs to the system of the image"):
        received(model_mount=target)


@pytest.mark.parametrize("target", ["/models/../etc", "/models/./x", "/models//x", "/models/", "/.."])
def test_a_mount_with_dotted_parts_is_refused(target: str) -> None:
    with pytest.raises(ValidationError, match="has empty or dotted parts"):
        received(model_mount=target)


@pytest.mark.parametrize(
    "target",
    ["/models", "/model", "/app/models", "/usr/src/app/model", "/usr/local/share/models", "/root/.cache/models"],
)
def test_a_mount_at_a_directory_of_its_own_is_accepted(target: str) -> None:
    assert received(model_mount=target).engine.model_mount == target


@pytest.mark.parametrize("target", ["/etc", "/usr/lib", "/dev", "/run/secrets", "/proc", "/var"])
def test_a_tmpfs_over_a_path_of_the_system_is_refused(target: str) -> None:
    with pytest.raises(ValidationError, match="belongs to the system of the image"):
        received(tmpfs={target: "1MB"})


def test_a_tmpfs_over_the_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="over its `model_mount`"):
        received(tmpfs={"/srv/models": "1MB"}, model_mount="/srv/models/mine")
    received(tmpfs={"/srv/models/mine/cache": "1MB", "/srv/models-cache": "1MB"}, model_mount="/srv/models/mine")


def test_a_tmpfs_without_a_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="room for nothing"):
        received(tmpfs={"/tmp": "0MB"})


def test_no_spec_reaches_a_setting_that_grants_more() -> None:
    everything = ContainerSpec(
        name="aima.svc-tiny-dial.alpha",
        image="tiny:1",
        command=("serve",),
        environment={"A": "1"},
        host_address="127.0.0.1",
        host_port=20000,
        container_port=8000,
        mounts=(Mount(source="/srv/models/x", target="/models"),),
        memory=1 << 30,
        cores=2,
        shared_memory=1 << 20,
        gpus=("GPU-1",),
        network="aima",
        read_only=True,
        tmpfs={"/tmp": 1 << 20},
    )

    config = container_config(everything)

    assert config.keys() == {"Image", "Cmd", "Env", "Labels", "ExposedPorts", "HostConfig"}
    assert config["HostConfig"].keys() == GRANTED
    assert config["HostConfig"]["CapDrop"] == ["ALL"]
    assert config["HostConfig"]["ReadonlyRootfs"] is True
    assert config["HostConfig"]["Tmpfs"] == {"/tmp": "size=1048576,mode=1777"}
    assert config["HostConfig"]["NetworkMode"] == "aima.engines"
    assert [request["DeviceIDs"] for request in config["HostConfig"]["DeviceRequests"]] == [["GPU-1"]]
    assert [mount["ReadOnly"] for mount in config["HostConfig"]["Mounts"]] == [True]
