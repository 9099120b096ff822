"""The catalog's portable engines, built and installed by their scripts, run on the real runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from lab.parts import eventually, free_port, missing
from lab.sharing import building, locked

from aima_core.domain.catalog import Engine
from aima_core.domain.fields import Scalar
from aima_worker.operations.container_spec import rendered_arguments
from aima_worker.runtime import ContainerRuntime, ContainerSpec
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime
from aima_worker.runtimes.process.runtime import ProcessRuntime

REPOSITORY = Path(__file__).parents[2]
ONE_THREAD: dict[str, Scalar] = {"threads": 1}
"""Threads that wait for each other are slow where several engines share two cores."""
SAME_SPEECH: dict[str, Scalar] = {"noise-scale": 0, "noise-w-scale": 0}
"""Arguments with which Piper speaks a text the same way each time: Whisper misunderstands some of its variations."""
READY_WITHIN = timedelta(seconds=60)


@dataclass(frozen=True)
class Running:
    """A started engine and its runtime."""

    runtime: ContainerRuntime
    name: str
    url: str

    def ask(self, path: str, *, body: bytes | None = None, content_type: str = "application/json") -> bytes:
        """The response body. Raises HTTPError for an error status."""
        with urlopen(Request(self.url + path, body, {"Content-Type": content_type}), timeout=60) as answer:
            said: bytes = answer.read()
            return said

    def ask_json(self, path: str, question: object) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.ask(path, body=json.dumps(question).encode()))
        return answer

    def is_healthy(self) -> bool:
        try:
            self.ask("/health")
        except (HTTPError, OSError):
            return False
        return True

    def lines(self) -> list[str]:
        with self.runtime.logs(self.name, follow=False) as log:
            return [line.text for line in log]


Shared = dict[tuple[object, ...], tuple[str, str]]
"""The names and URLs of engines that the tests of a file share, by what they were started with."""


class Starter:
    """Starts an engine of the catalog on one kind of runtime."""

    def __init__(self, runtime: ContainerRuntime, *, prefix: Path | None = None, shared: Shared | None = None) -> None:
        """Native programs are installed below `prefix`; without it, engines run in containers.

        An engine in `shared` is not started again.
        """
        self._runtime = runtime
        self._prefix = prefix
        self._shared = shared
        self._started: list[str] = []

    def __call__(self, engine: str, *, wait: bool = True, **arguments: Scalar) -> Running:
        """Starts the engine, with one thread; waits until it is ready if `wait`."""
        known = (engine, *sorted(arguments.items()))
        if self._shared is not None and known in self._shared:
            return Running(self._runtime, *self._shared[known])
        entry = engine_of(engine)
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        spec = self._spec(entry, {**entry.arguments, **(ONE_THREAD if "threads" in entry.arguments else {}), **given})
        self._started.append(spec.name)
        self._runtime.run(spec)
        running = Running(self._runtime, spec.name, f"http://127.0.0.1:{spec.host_port}")
        if wait:
            assert eventually(running.is_healthy, within=READY_WITHIN), running.lines()
        if self._shared is not None:
            self._shared[known] = running.name, running.url
        return running

    def stop_all(self) -> None:
        for name in self._started:
            self._runtime.remove(name, grace=timedelta(0))

    def _spec(self, entry: Engine, arguments: dict[str, Scalar]) -> ContainerSpec:
        port = free_port()
        assert entry.native is not None
        command = entry.native.command if self._prefix else entry.command
        if self._prefix:
            install_natively(self._prefix, command[0].removeprefix("aima-"))
        else:
            build_image(entry.image)
        filled = {"{address}": "127.0.0.1", "{port}": str(port)}
        return ContainerSpec(
            name=f"aima-test-{uuid.uuid4().hex[:12]}",
            image=entry.image,
            command=(*(filled.get(part, part) for part in command), *rendered_arguments(arguments)),
            host_address="127.0.0.1",
            host_port=port,
            container_port=entry.port,
            read_only=entry.filesystem == "read-only",
            tmpfs=entry.directories_in_memory,
            memory=entry.limits.memory,
            pids=entry.limits.pids,
        )


def engine_of(name: str) -> Engine:
    file = next((REPOSITORY / "catalog" / "engines").rglob(f"{name}.yaml"))
    return Engine.model_validate(yaml.safe_load(file.read_text()))


def script(name: str, *arguments: str) -> str:
    """The output of `deploy/engines/<name>`; skips the test if it fails."""
    command = [str(REPOSITORY / "deploy" / "engines" / name), *arguments]
    with building(*arguments) if name == "build" else nullcontext():
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        missing(f"the engines are not to be had: {done.stdout.strip()}")
    return done.stdout


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of natively installed engines, shared by the processes of a run."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "engines"


@cache
def build_image(image: str) -> None:
    """Of one engine, when the first test needs it; one process builds, the others find the image up to date."""
    script("build", image.removeprefix("aima/").removesuffix(":1"))


@cache
def install_natively(prefix: Path, engine: str) -> None:
    """When the first test needs it; one process installs, the others find it installed."""
    prefix.mkdir(exist_ok=True)
    with locked(prefix / f"{engine}.lock"):
        script("install-native", "--prefix", str(prefix), engine)


@pytest.fixture
def natively(prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    monkeypatch.setenv("PATH", f"{prefix / 'bin'}:{os.environ['PATH']}")
    starter = Starter(ProcessRuntime(tmp_path / "processes", host="host-01"), prefix=prefix)
    yield starter
    starter.stop_all()


@pytest.fixture
def in_docker() -> Iterator[Starter]:
    with closing(DockerSdkRuntime(host="host-01")) as engine:
        starter = Starter(engine)
        yield starter
        starter.stop_all()


@pytest.fixture(scope="module")
def of_this_file_natively(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Shared]]:
    directory, shared = tmp_path_factory.mktemp("processes"), Shared()
    yield directory, shared
    remove(ProcessRuntime(directory, host="host-01"), shared)


@pytest.fixture
def shared_natively(
    prefix: Path, of_this_file_natively: tuple[Path, Shared], monkeypatch: pytest.MonkeyPatch
) -> Starter:
    """Starts each engine once for the tests of a file, which only send requests."""
    directory, shared = of_this_file_natively
    monkeypatch.setenv("PATH", f"{prefix / 'bin'}:{os.environ['PATH']}")
    return Starter(ProcessRuntime(directory, host="host-01"), prefix=prefix, shared=shared)


@pytest.fixture(scope="module")
def of_this_file_in_docker() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    with closing(DockerSdkRuntime(host="host-01")) as engine:
        remove(engine, shared)


@pytest.fixture
def shared_in_docker(of_this_file_in_docker: Shared) -> Iterator[Starter]:
    """The same in containers."""
    with closing(DockerSdkRuntime(host="host-01")) as engine:
        yield Starter(engine, shared=of_this_file_in_docker)


def remove(runtime: ContainerRuntime, shared: Shared) -> None:
    for name, _ in shared.values():
        runtime.remove(name, grace=timedelta(0))


@pytest.fixture(params=["natively", pytest.param("in_docker", marks=pytest.mark.docker)])
def start(request: pytest.FixtureRequest) -> Starter:
    """Each test runs on both runtimes."""
    starter: Starter = request.getfixturevalue(request.param)
    return starter
