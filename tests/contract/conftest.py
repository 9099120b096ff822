"""The suite's fixtures: every test runs once on each runtime's bench."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
from contract.bench import Bench

from aima_worker.runtime import ContainerRuntime

BENCHES = {
    "fake": "contract.on_fake:FakeBench",
    "docker": "contract.on_docker:DockerBench",
    "docker-cli": "contract.on_docker_cli:DockerCliBench",
    "process": "contract.on_process:ProcessBench",
}
MARKS = {"docker": pytest.mark.docker, "docker-cli": pytest.mark.docker}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in BENCHES])
def runtime_under_test(request: pytest.FixtureRequest) -> Iterator[Bench]:
    module, name = BENCHES[request.param].split(":")
    bench: Bench = getattr(import_module(module), name)()
    yield bench
    bench.close()


@pytest.fixture
def bench(runtime_under_test: Bench) -> Bench:
    return runtime_under_test


@pytest.fixture
def runtime(bench: Bench) -> ContainerRuntime:
    return bench.runtime
