"""What only a real Docker Engine can show: the privileges of a container, and that a refused start is rolled back."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import docker
import pytest
from contract.bench import Bench, Program
from contract.on_docker import DockerBench
from docker.models.containers import ExecResult
from lab.engine import OwnEngine, own_engine
from lab.parts import eventually

from aima_core.errors import EngineRefused, GpuUnavailable
from aima_worker.runtime import Mount, Status
from aima_worker.runtimes.docker.container_config import container_config
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = pytest.mark.docker

NOW = timedelta(0)
REMAPPED = 231_072


@pytest.fixture
def api() -> Iterator[docker.APIClient]:
    with closing(docker.from_env()) as client:
        yield client.api


def printed(bench: Bench, script: str, **changes: object) -> list[str]:
    """The output of a shell in a container."""
    spec = bench.spec(Program.CRASHES, command=("sh", "-c", script), **changes)
    bench.runtime.run(spec)
    with bench.runtime.logs(spec.name, follow=True) as log:
        return [line.text for line in log]


def test_a_container_has_no_capabilities_and_can_gain_none(bench: Bench) -> None:
    lines = printed(bench, "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status")

    assert [line.split() for line in lines] == [
        ["CapEff:", "0000000000000000"],
        ["CapBnd:", "0000000000000000"],
        ["NoNewPrivs:", "1"],
    ]


def test_an_entrypoint_of_the_spec_replaces_that_of_the_image(bench: Bench) -> None:
    spec = bench.spec(Program.CRASHES, entrypoint=("sh", "-c", 'echo "$0 got $*"'), command=("engine", "--port", "80"))
    bench.runtime.run(spec)

    with bench.runtime.logs(spec.name, follow=True) as log:
        assert [line.text for line in log] == ["engine got --port 80"]


def test_mounts_are_read_only(bench: Bench, tmp_path: Path) -> None:
    tmp_path.joinpath("weights").write_text("7b\n")

    lines = printed(
        bench,
        "cat /model/weights; touch /model/new || echo refused",
        mounts=(Mount(source=str(tmp_path), target="/model"),),
    )

    assert {"7b", "refused"} <= set(lines)  # on stdout and stderr, which come in no certain order
    assert not tmp_path.joinpath("new").exists()


def test_a_missing_directory_is_refused_rather_than_created(bench: Bench, tmp_path: Path) -> None:
    missing = tmp_path / "no-such-model"

    with pytest.raises(EngineRefused):
        bench.runtime.run(bench.spec(Program.SERVES, mounts=(Mount(source=str(missing), target="/model"),)))

    assert not missing.exists()
    assert bench.runtime.containers(bench.labels) == []


def test_limits_are_enforced_by_the_docker_engine(bench: Bench, api: docker.APIClient) -> None:
    spec = bench.spec(Program.COUNTS, memory=64 << 20, cores=0.5, shared_memory=32 << 20, pids=50)

    container = bench.runtime.run(spec)

    kept = api.inspect_container(container.id)["HostConfig"]
    assert (kept["Memory"], kept["MemorySwap"]) == (64 << 20, 64 << 20)
    assert (kept["NanoCpus"], kept["ShmSize"], kept["PidsLimit"]) == (500_000_000, 32 << 20, 50)
    assert kept["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "50m", "max-file": "3"}}
    assert kept["RestartPolicy"]["Name"] == "no"
    assert kept["Init"] is True
    assert kept["Privileged"] is False
    assert kept["NetworkMode"] in ("default", "bridge")


def test_the_environment_and_the_command_reach_the_container_unchanged(bench: Bench) -> None:
    assert printed(bench, 'echo "$GREETING"', environment={"GREETING": "good day, $HOME"}) == ["good day, $HOME"]


@pytest.mark.parametrize(
    ("gpus", "asked"),
    [("all", {"Count": -1}), (2, {"Count": 2}), (("GPU-1", "GPU-2"), {"DeviceIDs": ["GPU-1", "GPU-2"]})],
)
def test_gpus_are_requested_as_devices(bench: Bench, gpus: object, asked: dict[str, object]) -> None:
    config = container_config(bench.spec(Program.SERVES, gpus=gpus))

    assert config["HostConfig"]["DeviceRequests"] == [{"Driver": "", "Capabilities": [["gpu"]], **asked}]


def test_the_environment_of_an_image_grants_no_gpu(bench: Bench, api: docker.APIClient) -> None:
    name = f"aima-lab/takes-gpus:{uuid.uuid4().hex[:12]}"
    text = f"FROM {bench.image}\nENV NVIDIA_VISIBLE_DEVICES=all\n"
    list(api.build(fileobj=io.BytesIO(text.encode()), tag=name, rm=True, forcerm=True))

    try:
        assert printed(bench, 'echo "$NVIDIA_VISIBLE_DEVICES"', image=name) == ["void"]
    finally:
        api.remove_image(name, force=True)


@pytest.mark.parametrize("gpus", ["all", 1, ("GPU-1",)])
def test_the_docker_engine_names_the_gpus_of_a_container_that_requests_some(bench: Bench, gpus: object) -> None:
    environment = container_config(bench.spec(Program.SERVES, gpus=gpus))["Env"]

    assert [each for each in environment if each.startswith("NVIDIA_")] == []


def test_a_gpu_that_the_docker_engine_cannot_provide_has_its_own_failure(bench: Bench) -> None:
    if bench.runtime.facts().gpus:
        pytest.skip("this engine gives GPUs")

    with pytest.raises(GpuUnavailable):
        bench.runtime.run(bench.spec(Program.SERVES, gpus=1))

    assert bench.runtime.containers(bench.labels) == []


def test_a_limit_of_the_disk_is_left_out_where_the_storage_driver_has_no_quotas(
    bench: Bench, api: docker.APIClient
) -> None:
    container = bench.runtime.run(bench.spec(Program.COUNTS, disk=20 << 20))

    if not api.inspect_container(container.id)["HostConfig"].get("StorageOpt"):
        assert bench.writes(container.name, "/file", mebibytes=21)


def test_a_limit_of_the_disk_is_enforced_by_a_storage_driver_with_quotas() -> None:
    if "btrfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no btrfs, the one file system with quotas that needs no mount option")
    with own_engine(disk="300M", filesystem="btrfs") as engine, closing(DockerBench()) as bench:
        engine.take(bench.image)
        with closing(DockerSdkRuntime(engine.address, host="bench-01")) as runtime:
            name = runtime.run(bench.spec(Program.COUNTS, disk=20 << 20)).name

        within, beyond = (writes(engine, name, mebibytes=size) for size in (10, 30))

    assert within.exit_code == 0
    assert b"Disk quota exceeded" in beyond.output


def test_users_of_containers_can_be_remapped(tmp_path: Path) -> None:
    with own_engine(remapped_to=REMAPPED) as engine, closing(DockerBench()) as bench:
        engine.take(bench.image)
        mounts = (Mount(source=str(tmp_path), target="/models"),)
        with closing(DockerSdkRuntime(engine.address, host="bench-01")) as runtime:
            spec = bench.spec(Program.COUNTS, read_only=True, tmpfs={"/tmp": 1 << 20}, disk=20 << 20, mounts=mounts)
            container = runtime.run(spec)
            with engine.client() as client:
                process = client.api.inspect_container(container.id)["State"]["Pid"]
            status = engine.cell.outside(Path(f"/proc/{process}/status")).read_text()
            wrote = [writes(engine, container.name, mebibytes=0, file=file).exit_code for file in ("/tmp/x", "/x")]
            found = runtime.find(container.name)

    assert f"Uid:\t{REMAPPED}\t" in status
    assert wrote == [0, 1]
    assert found is not None
    assert found.status is Status.RUNNING


def writes(engine: OwnEngine, name: str, *, mebibytes: int, file: str | None = None) -> ExecResult:
    with engine.client() as client:
        command = ["busybox", "dd", "if=/dev/zero", f"of={file or f'/file-{mebibytes}'}", "bs=1M", f"count={mebibytes}"]
        return client.containers.get(name).exec_run(command)


def test_a_container_that_cannot_start_is_refused_and_removed(bench: Bench, tmp_path: Path) -> None:
    a_directory_over_a_program = (Mount(source=str(tmp_path), target="/bin/busybox"),)

    with pytest.raises(EngineRefused):
        bench.runtime.run(bench.spec(Program.SERVES, mounts=a_directory_over_a_program))

    assert bench.runtime.containers(bench.labels) == []


def test_a_container_that_a_killed_worker_created_and_never_started_is_started(
    bench: Bench, api: docker.APIClient
) -> None:
    spec = bench.spec(Program.COUNTS)
    made = api.create_container_from_config(container_config(spec), spec.name)
    found = bench.runtime.find(spec.name)
    assert found is not None
    assert found.status is Status.CREATED

    container = bench.runtime.run(spec)

    assert container.id == made["Id"]
    again = bench.runtime.find(spec.name)
    assert again is not None
    assert again.status is Status.RUNNING


def test_a_foreign_container_of_the_same_name_is_left_alone(bench: Bench, api: docker.APIClient) -> None:
    spec = bench.spec(Program.COUNTS)
    theirs = api.create_container(bench.image, list(spec.command), name=spec.name, labels=bench.labels)

    with pytest.raises(EngineRefused, match="not AIMA's"):
        bench.runtime.run(spec)

    assert [container.id for container in bench.runtime.containers(bench.labels)] == [theirs["Id"]]


def test_an_id_prefix_is_not_accepted_as_a_name(bench: Bench) -> None:
    container = bench.runtime.run(bench.spec(Program.COUNTS))

    assert bench.runtime.find(container.id[:12]) is None
    assert bench.runtime.find(container.id) is not None


def test_a_container_removed_by_hand_is_no_longer_found(bench: Bench, api: docker.APIClient) -> None:
    container = bench.runtime.run(bench.spec(Program.COUNTS))

    api.remove_container(container.id, force=True)

    assert eventually(lambda: bench.runtime.find(container.name) is None)
    bench.runtime.remove(container.name, grace=NOW)


def test_volumes_declared_by_the_image_are_removed_with_the_container(bench: Bench, api: docker.APIClient) -> None:
    made = api.create_container(
        bench.image, ["true"], name=bench.spec(Program.SERVES).name, labels=bench.labels, volumes=["/scratch"]
    )
    own = {mount["Name"] for mount in api.inspect_container(made["Id"])["Mounts"]}

    bench.runtime.remove(made["Id"], grace=NOW)

    assert own
    assert own & {volume["Name"] for volume in api.volumes()["Volumes"]} == set()


def test_facts_describe_the_docker_engine(engine: DockerSdkRuntime, api: docker.APIClient) -> None:
    facts = engine.facts()

    assert facts.kind == "docker"
    assert facts.version == api.version()["Version"]
    assert facts.disk_free is not None
    assert facts.disk_free > 0
    assert facts.live_restore == api.info()["LiveRestoreEnabled"]
