"""OOM kills that the engine does not report: the kernel's counter distinguishes them from other exits by SIGKILL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.bench import Bench, Program
from lab.parts import eventually

from aima_worker.runtime import SIGKILLED, Container, Status
from aima_worker.runtimes.docker.oom_kills import EXIT_DELAY, OomKills
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
def test_an_oom_kill_that_the_docker_engine_missed_is_detected(
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
    ("exited_after", "oom_killed"),
    [
        pytest.param(-LATER, False, id="exited before"),
        pytest.param(timedelta(0), True, id="exited at once"),
        pytest.param(EXIT_DELAY / 2, True, id="exited soon"),
        pytest.param(LATER, False, id="exited later"),
    ],
)
def test_an_exit_shortly_after_an_oom_kill_counts_as_one(
    kernel: Kernel, oom_kills: OomKills, exited_after: timedelta, oom_killed: bool
) -> None:
    kernel.kills()
    oom_kills.read()
    exit_at = datetime.now(UTC) + exited_after

    assert oom_kills.any_shortly_before(exit_at) is oom_killed
    kernel.kills()
    assert oom_kills.any_shortly_before(exit_at) is oom_killed, "a later kill is of another process"


def test_an_oom_kill_since_the_last_read_counts(kernel: Kernel, oom_kills: OomKills) -> None:
    kernel.kills()

    assert oom_kills.any_shortly_before(datetime.now(UTC))


def test_oom_kills_before_the_worker_started_count_for_no_exit(oom_kills: OomKills) -> None:
    assert not oom_kills.any_shortly_before(datetime.now(UTC))


@pytest.mark.parametrize("vmstat", [None, Path("/nowhere/vmstat")], ids=["on another machine", "kernel without it"])
def test_no_exit_counts_as_an_oom_kill_without_the_counter(vmstat: Path | None) -> None:
    assert not OomKills(vmstat).any_shortly_before(datetime.now(UTC))
