"""What only the `docker` program can show: that it makes what the SDK makes, and that no run of it is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import docker
import psutil
import pytest
from contract.bench import Bench, Program
from contract.on_docker_cli import DockerCliBench
from lab.leftovers import nothing_held
from lab.parts import eventually
from lab.proxy import Proxy, proxy

from aima_core.errors import DockerUnavailable, EngineRefused, GpuUnavailable
from aima_core.logs.protocol import LogLine
from aima_worker.runtime import ContainerRuntime, ContainerSpec, Mount
from aima_worker.runtimes.docker.cli.runtime import DockerCli
from aima_worker.runtimes.docker.container_config import container_config

pytestmark = pytest.mark.docker

SOCKET = "/var/run/docker.sock"
GONE = "unix:///nowhere/docker.sock"
TERMINAL = ("AttachStdout", "AttachStderr", "Hostname")
"""What differs though nothing that runs does: the program says that it might look on."""


@pytest.fixture
def bench() -> Iterator[Bench]:
    own = DockerCliBench()
    yield own
    own.close()


@pytest.fixture
def api() -> Iterator[docker.APIClient]:
    with closing(docker.from_env()) as client:
        yield client.api


@pytest.fixture
def line() -> Iterator[Proxy]:
    """A line to the engine that can be cut."""
    with proxy(SOCKET) as between:
        yield between


@pytest.fixture
def far(line: Proxy) -> DockerCli:
    """The engine at the end of that line."""
    return DockerCli(f"tcp://127.0.0.1:{line.port}", host="bench-01", timeout=timedelta(seconds=5))


def what_runs(inspected: dict[str, Any]) -> dict[str, Any]:
    config = {field: value for field, value in inspected["Config"].items() if field not in TERMINAL}
    config["Env"] = sorted(config["Env"])  # the engine keeps no order
    # The one says "none" where the other says nothing.
    host = {field: value or None for field, value in inspected["HostConfig"].items()}
    return {"config": config, "host": host}


def programs_of(process: psutil.Process) -> list[str]:
    return [child.name() for child in process.children(recursive=True)]


# What it makes ----------------------------------------------------------------------------------------------------


def test_it_makes_exactly_what_the_sdk_makes(bench: Bench, api: docker.APIClient, tmp_path: Path) -> None:
    source = tmp_path / 'weights, "large"'
    source.mkdir()
    spec = bench.spec(
        Program.COUNTS,
        environment={"GREETING": "good day, $HOME", "LINES": "one\ntwo", "EMPTY": ""},
        mounts=(Mount(source=str(source), target="/model"),),
        memory=64 << 20,
        cores=0.5,
        shared_memory=32 << 20,
        pids=50,
    )
    made = api.create_container_from_config(container_config(spec), spec.name)
    by_sdk = api.inspect_container(made["Id"])
    bench.runtime.remove(made["Id"], grace=timedelta(0))

    by_program = api.inspect_container(bench.runtime.run(spec).id)

    assert what_runs(by_program) == what_runs(by_sdk)


def test_what_was_made_and_cannot_start_is_refused_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    a_directory_over_a_program = (Mount(source=str(tmp_path), target="/bin/busybox"),)

    with pytest.raises(EngineRefused):
        bench.runtime.run(bench.spec(Program.SERVES, mounts=a_directory_over_a_program))

    assert bench.runtime.containers(bench.labels) == []


def test_a_gpu_that_the_engine_cannot_give_has_its_own_failure(bench: Bench) -> None:
    if bench.runtime.facts().gpus:
        pytest.skip("this engine gives GPUs")

    with pytest.raises(GpuUnavailable):
        bench.runtime.run(bench.spec(Program.SERVES, gpus=1))

    assert bench.runtime.containers(bench.labels) == []


def test_the_beginning_of_an_id_is_no_name(bench: Bench) -> None:
    container = bench.runtime.run(bench.spec(Program.COUNTS))

    assert bench.runtime.find(container.id[:12]) is None
    assert bench.runtime.find(container.id) is not None


def test_lines_of_both_streams_come_in_the_order_of_their_times(bench: Bench) -> None:
    script = "for i in 1 2 3 4 5; do echo out $i; sleep 0.02; echo err $i >&2; sleep 0.02; done"
    spec = bench.spec(Program.CRASHES, command=("sh", "-c", script))
    bench.runtime.run(spec)
    with bench.runtime.logs(spec.name, follow=True) as log:
        list(log)

    with bench.runtime.logs(spec.name, follow=False) as log:
        lines = [line.text for line in log]

    assert lines == [f"{stream} {number}" for number in range(1, 6) for stream in ("out", "err")]


def test_facts_say_what_the_engine_is(api: docker.APIClient) -> None:
    facts = DockerCli(host="bench-01").facts()

    assert facts.kind == "docker-cli"
    assert facts.version == api.version()["Version"]
    assert facts.disk_free is not None
    assert facts.disk_free > 0
    assert facts.live_restore == api.info()["LiveRestoreEnabled"]


# The way to the engine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda gone, _: gone.facts(),
        lambda gone, _: gone.image("busybox:1"),
        lambda gone, _: list(gone.pull("busybox:1", stall=timedelta(seconds=10))),
        lambda gone, spec: gone.run(spec),
        lambda gone, spec: gone.find(spec.name),
        lambda gone, spec: gone.containers(spec.labels),
        lambda gone, spec: list(gone.logs(spec.name, follow=True)),
        lambda gone, spec: list(gone.changes(spec.labels)),
        lambda gone, spec: gone.remove(spec.name, grace=timedelta(0)),
    ],
)
@pytest.mark.parametrize("missing", ["engine", "program"])
def test_every_call_says_when_the_engine_or_the_program_is_away(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[ContainerRuntime, ContainerSpec], object],
    missing: str,
) -> None:
    gone = DockerCli(GONE, host="bench-01")
    spec = bench.spec(Program.SERVES)

    with monkeypatch.context() as changed, pytest.raises(DockerUnavailable) as away:
        if missing == "program":
            changed.setenv("PATH", "/nowhere")
        call(gone, spec)

    assert GONE in str(away.value)
    assert "bench-01" in str(away.value)


def test_an_engine_that_answers_no_more_is_given_up_in_time(line: Proxy) -> None:
    frozen = DockerCli(f"tcp://127.0.0.1:{line.port}", host="bench-01", timeout=timedelta(seconds=1))
    line.freeze_after = 0

    with pytest.raises(DockerUnavailable, match="within 1s"):
        frozen.facts()


def test_a_context_of_the_program_s_own_is_a_way_to_the_engine(
    line: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    address = f"host=tcp://127.0.0.1:{line.port}"
    subprocess.run(["docker", "context", "create", "desk", "--docker", address], check=True, capture_output=True)
    monkeypatch.setenv("DOCKER_CONTEXT", "desk")

    facts = DockerCli(host="bench-01").facts()

    assert line.carried > 0
    assert facts.disk_free is None


def test_who_follows_a_log_loses_and_doubles_no_line_when_the_line_is_cut(
    bench: Bench, line: Proxy, far: DockerCli
) -> None:
    spec = bench.spec(Program.COUNTS)
    bench.runtime.run(spec)
    lines: list[LogLine] = []
    with far.logs(spec.name, follow=True) as log:
        reader = Thread(target=lambda: lines.extend(log))
        reader.start()

        for cut in range(1, 4):
            assert eventually(lambda enough=10 * cut: len(lines) >= enough)
            line.cut_what_stands()
        assert eventually(lambda: len(lines) >= 40)
        bench.runtime.remove(spec.name, grace=timedelta(0))
        reader.join(10)

    assert [said.text for said in lines] == [f"count {number}" for number in range(1, len(lines) + 1)]


def test_who_follows_a_log_that_has_said_nothing_goes_on_when_the_line_is_cut(
    bench: Bench, line: Proxy, far: DockerCli
) -> None:
    spec = bench.spec(Program.CRASHES, command=("sh", "-c", "sleep 3; echo late"))
    bench.runtime.run(spec)
    lines: list[LogLine] = []
    with far.logs(spec.name, follow=True) as log:
        reader = Thread(target=lambda: lines.extend(log))
        reader.start()
        assert eventually(lambda: "docker" in programs_of(psutil.Process()) and is_quiet(line))

        line.cut_what_stands()
        reader.join(10)

    assert [said.text for said in lines] == ["late"]


def is_quiet(line: Proxy) -> bool:
    before = line.carried
    return not eventually(lambda: line.carried != before, within=timedelta(seconds=0.3))


# What is left of it -----------------------------------------------------------------------------------------------


def test_what_was_opened_and_closed_leaves_no_program_behind(bench: Bench) -> None:
    spec = bench.spec(Program.STUBBORN)
    bench.runtime.run(spec)
    before = programs_of(psutil.Process())

    with nothing_held():
        for _ in range(5):
            with bench.runtime.logs(spec.name, follow=True) as log:
                next(iter(log))
            changes = bench.runtime.changes(bench.labels)
            listener = Thread(target=lambda changes=changes: list(changes))
            listener.start()
            changes.close()
            listener.join(5)

    assert programs_of(psutil.Process()) == before


def test_programs_die_with_a_worker_that_is_killed(bench: Bench) -> None:
    spec = bench.spec(Program.STUBBORN)
    bench.runtime.run(spec)
    follower = f"""
from aima_worker.runtimes.docker.cli.runtime import DockerCli
for line in DockerCli(host="bench-01").logs({json.dumps(spec.name)}, follow=True):
    print(line.text, flush=True)
"""
    worker = subprocess.Popen([sys.executable, "-c", follower], stdout=subprocess.PIPE, cwd=Path(__file__).parents[4])
    assert worker.stdout
    with worker.stdout as said:
        said.readline()
    (program,) = psutil.Process(worker.pid).children()
    assert program.name() == "docker"

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()

    assert eventually(lambda: not program.is_running())
