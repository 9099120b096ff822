"""`aima up --detach` returns once everything is ready, and `aima down` finds it by its lock, not by its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from api.cli.test_up import STAND_INS, alive
from lab.parts import eventually, free_port
from lab.running import Aima

from aima_api.up import detached
from aima_api.up.detached import Failed, RotatingLog, Up, running, start, stop
from aima_core.errors import AlreadyUp, PartEnded
from aima_core.system.state_dir import lock, lock_holder


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "state of aima"
    yield directory
    stop(directory)


def detach(state_dir: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Up | Failed:
    for name, value in {"AIMA_HOST__NAME": "box", "AIMA_GATEWAY__PORT": str(free_port()), **environment}.items():
        monkeypatch.setenv(name, value)
    return start([sys.executable, str(STAND_INS), "detached", str(state_dir), str(free_port())], state_dir)


def pid_of(state_dir: Path, role: str) -> int:
    return int((state_dir / f"{role}.pid").read_text())


def test_it_returns_once_everything_is_ready_and_down_ends_all_of_it(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = detach(state_dir, monkeypatch)

    assert isinstance(up, Up), up
    pids = [up.pid, pid_of(state_dir, "api"), pid_of(state_dir, "worker")]
    assert running(state_dir) == up
    assert os.getsid(up.pid) == up.pid
    assert "AIMA is up." in (log := Path(up.log or "")).read_text()
    assert log.stat().st_mode & 0o077 == 0

    assert stop(state_dir) == up.pid
    assert eventually(lambda: not any(map(alive, pids)))
    assert "1 engine keeps running" in log.read_text()
    assert (running(state_dir), stop(state_dir)) == (None, None)


def test_a_failed_start_returns_what_it_printed_and_its_exit_code(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = detach(state_dir, monkeypatch, WORKER="crash")

    assert isinstance(failed, Failed)
    assert failed.exit_code == PartEnded.exit_code
    assert "no GPU, no worker" in failed.lines
    assert "code: part_ended" in failed.lines
    assert running(state_dir) is None
    assert not alive(pid_of(state_dir, "api"))


def test_after_a_crash_neither_its_process_id_nor_its_announcement_counts(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = detach(state_dir, monkeypatch)
    assert isinstance(up, Up)
    os.kill(up.pid, signal.SIGKILL)
    os.waitpid(up.pid, 0)
    with subprocess.Popen(["sleep", "60"]) as reused:  # what the kernel gave the id to since
        announced = (state_dir / "up.json").read_text().replace(str(up.pid), str(reused.pid))
        (state_dir / "up.json").write_text(announced)
        (state_dir / "up.lock").write_text(str(reused.pid))

        assert (running(state_dir), stop(state_dir)) == (None, None)
        assert reused.poll() is None
        reused.kill()

    again = detach(state_dir, monkeypatch)
    assert isinstance(again, Up), again


def test_parts_that_do_not_stop_are_killed_after_the_timeout(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "DOWN_TIMEOUT", detached.POLL_INTERVAL)
    up = detach(state_dir, monkeypatch, WORKER="stubborn")
    assert isinstance(up, Up)
    worker = pid_of(state_dir, "worker")

    assert stop(state_dir) == up.pid

    assert eventually(lambda: not alive(worker))


def test_a_probe_of_the_lock_does_not_refuse_a_start(tmp_path: Path) -> None:
    (tmp_path / "up.lock").touch()
    ended = threading.Event()

    def probe() -> None:
        while not ended.is_set():
            lock_holder(tmp_path, "up")

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        for _ in range(300):
            with lock(tmp_path, "up"), suppress(AlreadyUp):
                pass
    finally:
        ended.set()
        thread.join()


def test_its_log_is_rotated(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "up.log", limit=100)

    for number in range(50):
        log.write(f"line {number}\n")

    assert (tmp_path / "up.log").read_text().endswith("line 49\n")
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 200


@pytest.mark.slow
def test_the_commands_say_what_runs_and_where_its_log_is(tmp_path: Path) -> None:
    aima = Aima(tmp_path, installation="detached", runtime="process")
    try:
        started, again = aima.aima("up", "--detach"), aima.aima("up", "--detach")

        assert started.returncode == again.returncode == 0, started.stderr
        assert "AIMA is up, as process" in started.stdout
        assert "AIMA is already up, as process" in again.stdout
        assert f"Its log is {tmp_path}/state/up.log." in again.stdout
        assert [host["live"] for host in aima.record("host", "list")] == [True]
    finally:
        ended = aima.aima("down")

    assert "AIMA is down (process " in ended.stdout
    assert "no process locks" in aima.aima("down").stdout
