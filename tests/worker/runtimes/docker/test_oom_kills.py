"""Kills for lack of memory that the engine does not report, which the kernel's counter distinguishes from others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.bench import Bench, Program
from lab.parts import eventually

from aima_worker.runtime import Container, Status
from aima_worker.runtimes.docker.oom_kills import EXIT_DELAY, SIGKILLED, OomKills
from aima_worker.runtimes.docker.parsing import container_inspected
from aima_worker.runtimes.docker.sdk import runtime as sdk_runtime

LATER = timedelta(hours=1)


class Kernel:
    def __init__(self, vmstat: Path) -> None:
        self._vmstat = vmstat
        self._killed = 7
        self.kills(0)

    def kills(self, processes: int = 1) -> None:
        self._killed += processes
        self._vmstat.write_text(f"pgfault 81\noom_kill {self._killed}\nthp_split_page 0\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "vmstat")


@pytest.fixture
def oom_kills(kernel: Kernel, tmp_path: Path) -> OomKills:
    return OomKills(tmp_path / "vmstat")


@pytest.mark.docker
def test_an_engine_whose_kill_the_docker_engine_missed_is_found_as_killed_for_lack_of_memory(
    bench: Bench, engine: sdk_runtime.DockerSdkRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(raw: Mapping[str, Any], *, local: bool) -> Container:
        return container_inspected(raw, local=local).model_copy(update={"oom_killed": False})

    monkeypatch.setattr(sdk_runtime, "container_inspected", missed)
    spec = bench.spec(Program.GREEDY)

    engine.run(spec)

    assert eventually(lambda: engine.find(spec.name).status is Status.EXITED)
    [listed] = engine.containers(bench.labels)
    assert (listed.exit_code, listed.oom_killed) == (SIGKILLED, True)


@pytest.mark.parametrize(
    ("exited_after", "explained"),
    [
        pytest.param(-LATER, False, id="exited before"),
        pytest.param(timedelta(0), True, id="exited at once"),
        pytest.param(EXIT_DELAY / 2, True, id="exited soon"),
        pytest.param(LATER, False, id="exited later"),
    ],
)
def test_a_kill_explains_an_exit_shortly_after_it(
    kernel: Kernel, oom_kills: OomKills, exited_after: timedelta, explained: bool
) -> None:
    kernel.kills()
    oom_kills.read()
    exit_at = datetime.now(UTC) + exited_after

    assert oom_kills.explains(exit_at) is explained
    kernel.kills()
    assert oom_kills.explains(exit_at) is explained, "a later kill is of another process"


def test_a_kill_that_was_not_read_yet_counts(kernel: Kernel, oom_kills: OomKills) -> None:
    kernel.kills()

    assert oom_kills.explains(datetime.now(UTC))


def test_kills_before_the_worker_started_explain_nothing(oom_kills: OomKills) -> None:
    assert not oom_kills.explains(datetime.now(UTC))


@pytest.mark.parametrize("vmstat", [None, Path("/nowhere/vmstat")], ids=["on another machine", "kernel without it"])
def test_nothing_is_explained_without_the_counter(vmstat: Path | None) -> None:
    assert not OomKills(vmstat).explains(datetime.now(UTC))
