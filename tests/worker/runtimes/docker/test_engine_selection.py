"""The selection of an engine by environment and docker contexts, and the connection through the `docker` program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import psutil
import pytest
from contract.bench import Bench, Program
from contract.on_docker_cli import DockerCliBench
from lab.leaks import nothing_held
from lab.parts import eventually, runs
from lab.proxy import Proxy

from aima_core.errors import Cancelled, DockerUnavailable
from aima_worker.runtimes.docker.sdk.client import Endpoint, current_endpoint
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

DEFAULT = Endpoint("unix:///var/run/docker.sock")


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current configuration of the `docker` program, empty."""
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def bench() -> Iterator[Bench]:
    own = DockerCliBench()
    yield own
    own.close()


def create_context(configuration: Path, name: str, address: str, **endpoint: object) -> Path:
    """Creates a context as `docker context create` does. Returns the directory for its TLS files."""
    key = sha256(name.encode()).hexdigest()
    meta = configuration / "contexts/meta" / key
    meta.mkdir(parents=True)
    described = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": address, **endpoint}}}
    (meta / "meta.json").write_text(json.dumps(described))
    return configuration / "contexts/tls" / key / "docker"


# Which engine -------------------------------------------------------------------------------------------------------


def test_without_any_configuration_the_local_docker_engine_is_used() -> None:
    assert current_endpoint() == DEFAULT


def test_the_current_context_selects_the_docker_engine(configuration: Path) -> None:
    create_context(configuration, "desk", "ssh://me@desk")
    (configuration / "config.json").write_text('{"currentContext": "desk"}')

    assert current_endpoint().address == "ssh://me@desk"


def test_docker_context_overrides_the_current_context(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_context(configuration, "desk", "ssh://me@desk")
    (configuration / "config.json").write_text('{"currentContext": "desk"}')
    monkeypatch.setenv("DOCKER_CONTEXT", "default")

    assert current_endpoint() == DEFAULT


def test_docker_host_overrides_every_context(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_context(configuration, "desk", "ssh://me@desk")
    monkeypatch.setenv("DOCKER_CONTEXT", "desk")
    monkeypatch.setenv("DOCKER_HOST", "tcp://spark-01:2375")

    assert current_endpoint() == Endpoint("tcp://spark-01:2375")


def test_a_context_provides_its_tls_files_and_verification(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = create_context(configuration, "desk", "tcp://desk:2376", SkipTLSVerify=True)
    monkeypatch.setenv("DOCKER_CONTEXT", "desk")

    assert current_endpoint() == Endpoint("tcp://desk:2376", tls_files=files, verify=False)


def test_a_malformed_configuration_is_ignored(configuration: Path) -> None:
    configuration.mkdir()
    (configuration / "config.json").write_text("{")

    assert current_endpoint() == DEFAULT


def test_a_missing_context_is_reported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "desk")

    with pytest.raises(DockerUnavailable, match="context://desk: there is no such docker context"):
        DockerSdkRuntime(host="bench-01").facts()


@pytest.mark.docker
def test_a_context_created_by_the_docker_program_reaches_its_docker_engine(
    line: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"host=tcp://127.0.0.1:{line.port}"
    subprocess.run(["docker", "context", "create", "desk", "--docker", address], check=True, capture_output=True)
    monkeypatch.setenv("DOCKER_CONTEXT", "desk")

    facts = DockerSdkRuntime(host="bench-01").facts()

    assert facts.kind == "docker"
    assert line.carried > 0
    assert facts.disk_free is None


# Through the docker program -----------------------------------------------------------------------------------------


@pytest.mark.docker
def test_facts_say_that_the_docker_program_is_used(bench: Bench) -> None:
    facts = bench.runtime.facts()

    assert facts.kind == "docker-cli"
    assert facts.disk_free is not None


@pytest.mark.docker
def test_the_docker_program_uses_the_given_address(line: Proxy) -> None:
    facts = DockerSdkRuntime(f"tcp://127.0.0.1:{line.port}", host="bench-01", through_program=True).facts()

    assert line.carried > 0
    assert facts.disk_free is None


@pytest.mark.docker
def test_the_error_of_a_docker_program_that_reaches_no_engine_is_quoted() -> None:
    gone = DockerSdkRuntime("unix:///nowhere/docker.sock", host="bench-01", through_program=True)

    with pytest.raises(DockerUnavailable, match=r"unix:///nowhere/docker\.sock.*dial unix /nowhere/docker\.sock"):
        gone.facts()


def test_a_missing_docker_program_is_reported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(DockerUnavailable, match="`docker` does not start"):
        DockerSdkRuntime(host="bench-01", through_program=True).facts()


@pytest.mark.docker
def test_opened_and_closed_streams_leave_no_docker_program_behind(bench: Bench) -> None:
    spec = bench.spec(Program.STUBBORN)
    bench.runtime.run(spec)
    before = psutil.Process().children()  # the connections kept

    with nothing_held():
        for _ in range(5):
            with bench.runtime.logs(spec.name, follow=True) as log:
                next(iter(log))

    assert psutil.Process().children() == before


@pytest.mark.docker
def test_a_closed_pull_leaves_no_docker_program_behind(bench: Bench, line: Proxy) -> None:
    line.freeze_after = 0
    bench.runtime.facts()
    before = psutil.Process().children()
    pull = bench.runtime.pull(f"127.0.0.1:{line.port}/nobody/has:this", stall=timedelta(seconds=60))
    pull.close()

    with pytest.raises(Cancelled):
        list(pull)

    assert psutil.Process().children() == before


@pytest.mark.docker
def test_docker_programs_end_with_a_killed_worker(bench: Bench) -> None:
    spec = bench.spec(Program.STUBBORN)
    bench.runtime.run(spec)
    follower = f"""
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime
for line in DockerSdkRuntime(host="bench-01", through_program=True).logs({json.dumps(spec.name)}, follow=True):
    print(line.text, flush=True)
"""
    worker = subprocess.Popen([sys.executable, "-c", follower], stdout=subprocess.PIPE, cwd=Path(__file__).parents[4])
    assert worker.stdout
    with worker.stdout as said:
        said.readline()
    programs = psutil.Process(worker.pid).children()
    assert {program.name() for program in programs} == {"docker"}

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()

    assert eventually(lambda: not any(map(runs, programs)))
