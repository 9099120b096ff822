"""The suite's fixtures: every test runs once on each runtime's bench."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib import import_module

import pytest
from contract.bench import Bench
from contract.on_docker import DockerBench
from lab.engine import OwnEngine, own_engine
from lab.unpacked import DOCKER_28, Release, unpacked

from aima_worker.runtime import ContainerRuntime

BENCHES = {
    "fake": "contract.on_fake:FakeBench",
    "docker": "contract.on_docker:DockerBench",
    "docker-cli": "contract.on_docker_cli:DockerCliBench",
    "process": "contract.on_process:ProcessBench",
}
RELEASES = {"docker-28": DOCKER_28}
"""Other engines than this machine's, on the bench of Docker."""
MARKS = {
    "docker": (pytest.mark.docker,),
    "docker-cli": (pytest.mark.docker,),
    "docker-28": (pytest.mark.docker,),
}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in (*BENCHES, *RELEASES)])
def runtime_under_test(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param in RELEASES:
        engine: OwnEngine = request.getfixturevalue("engine_of_release")(RELEASES[request.param])
        with engine.cell.entered():
            bench: Bench = DockerBench(engine.address)
            yield bench
            bench.close()
        return
    module, name = BENCHES[request.param].split(":")
    bench = getattr(import_module(module), name)()
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def engine_of_release() -> Iterator[Callable[[Release], OwnEngine]]:
    """Starts the engine of a release, once."""
    with ExitStack() as started:
        yield cache(lambda release: started.enter_context(own_engine(system=unpacked(release))))


@pytest.fixture
def bench(runtime_under_test: Bench) -> Bench:
    return runtime_under_test


@pytest.fixture
def runtime(bench: Bench) -> ContainerRuntime:
    return bench.runtime
