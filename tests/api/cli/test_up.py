"""`aima up` starts, supervises and stops Redis, API and worker together; its state survives a restart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from lab.parts import eventually, free_port

from aima_api.up.redis_server import ManagedRedis
from aima_api.up.supervisor import Part, RunningPart
from aima_core.errors import AlreadyUp, ApiPortTaken, PartEnded

STAND_INS = Path(__file__).with_name("up_stand_ins.py")
READY = "AIMA is up."
WITHIN = timedelta(minutes=1)
"""For processes to start, to end, or to be replaced."""


class Up:
    """One `aima up` in a separate process."""

    def __init__(self, state_dir: Path, **environment: str) -> None:
        self.state_dir = state_dir
        self.port = free_port()
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(STAND_INS), "up", str(state_dir), str(self.port)],
            env=os.environ
            | {"AIMA_HOST__NAME": "box", "AIMA_GATEWAY__PORT": str(free_port()), "PYTHONUNBUFFERED": "1"}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def said(self, text: str) -> bool:
        return eventually(lambda: any(text in line for line in self.lines), within=WITHIN)

    def ended(self) -> int:
        code = self.process.wait(WITHIN.total_seconds())
        self._reader.join(5)
        return code

    def pid_of(self, role: str) -> int:
        return int((self.state_dir / f"{role}.pid").read_text())

    def redis(self) -> redis.Redis:
        directory = self.state_dir / "redis"
        port, password = (directory / "port").read_text(), (directory / "password").read_text()
        return redis.Redis(port=int(port), password=password, decode_responses=True)

    def leaves_nothing(self) -> None:
        self.process.kill()
        with suppress(OSError, ValueError):
            os.kill(int((self.state_dir / "redis" / "redis.pid").read_text()), signal.SIGKILL)
        for role in ("api", "gateway", "worker"):
            with suppress(OSError, ValueError):
                os.kill(self.pid_of(role), signal.SIGKILL)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                self.lines.append(line.rstrip())


def alive(pid: int) -> bool:
    """Whether it runs; a zombie counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[list[Up]]:
    ups: list[Up] = []
    yield ups
    for up in ups:
        up.leaves_nothing()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state of aima"


def begin(begun: list[Up], state_dir: Path, *, until: str = READY, **environment: str) -> Up:
    up = Up(state_dir, **environment)
    begun.append(up)
    assert up.said(until), "\n".join(up.lines)
    return up


def test_all_processes_start_and_one_ctrl_c_ends_them(begun: list[Up], state_dir: Path) -> None:
    up = begin(begun, state_dir)
    pids = [*map(up.pid_of, ("api", "gateway", "worker")), int((state_dir / "redis" / "redis.pid").read_text())]

    up.process.send_signal(signal.SIGINT)

    assert up.ended() == 0
    assert not any(map(alive, pids))
    ends = [
        f"{part:<7} │ the {name} ends" for part, name in (("worker", "worker"), ("gateway", "gateway"), ("api", "API"))
    ]
    assert [line for line in up.lines if line.endswith(" ends")] == ends
    assert "1 engine keeps running" in up.lines[-1]
    reported = "\n".join(up.lines)
    for fact in (f"http://127.0.0.1:{up.port}", "box", "the Docker Engine is unavailable", str(state_dir)):
        assert fact in reported
    assert "worker  │ looking for a GPU  found=0" in reported


def test_the_last_lines_of_a_part_are_printed_before_the_next_part_is_stopped() -> None:
    lines = list[str]()

    def print_slowly(line: str) -> None:
        time.sleep(0.1)  # as on a busy machine
        lines.append(line)

    part = Part(
        name="The part",
        command=("sh", "-c", "trap 'echo ends; exit' TERM; echo begun; while :; do sleep 0.05; done"),
        environment={},
        is_ready=lambda: True,
        stop_timeout=WITHIN,
        print_line=print_slowly,
        dies_with_parent=False,
    )
    running = RunningPart(part)
    assert eventually(lambda: lines == ["begun"])

    running.stop()

    assert lines == ["begun", "ends"]


SIGNALLED_AT_ANY_MOMENT = """
import faulthandler, random, signal
from datetime import timedelta
from aima_api.up import supervisor

supervisor.SIGNALS, supervisor.POLL_INTERVAL = (signal.SIGALRM,), timedelta(microseconds=50)
for _ in range(2_000):
    faulthandler.dump_traceback_later(20, exit=True)
    parts = supervisor.ProcessSupervisor([], print_note=print)
    began = lambda: signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-4))
    parts.run(on_ready=began, on_stop=str)
"""


def test_a_signal_at_any_moment_ends_it() -> None:
    words = [sys.executable, "-c", SIGNALLED_AT_ANY_MOMENT]

    ended = subprocess.run(words, timeout=120, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr


def test_the_next_up_finds_its_state(begun: list[Up], state_dir: Path) -> None:
    first = begin(begun, state_dir)
    with first.redis() as link:
        link.set("kept", "yes")
        assert link.config_get("appendonly")["appendonly"] == "yes"
        assert link.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    key = (state_dir / "signing.key").read_text()
    first.process.send_signal(signal.SIGTERM)
    assert first.ended() == 0

    second = begin(begun, state_dir)

    with second.redis() as link:
        assert link.get("kept") == "yes"
    assert (state_dir / "signing.key").read_text() == key


def test_only_the_owner_can_read_secrets(begun: list[Up], state_dir: Path) -> None:
    up = begin(begun, state_dir)

    for name in ("signing.key", "redis/password", "redis/redis.conf"):
        assert (state_dir / name).stat().st_mode & 0o077 == 0, name
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=up.redis().connection_pool.connection_kwargs["port"]).ping()


def test_a_second_up_on_the_same_state_is_refused(begun: list[Up], state_dir: Path) -> None:
    first = begin(begun, state_dir)

    second = begin(begun, state_dir, until="code: already_up")

    assert second.ended() == AlreadyUp.exit_code
    assert any(f"process {first.process.pid}" in line for line in second.lines)
    assert first.process.poll() is None


def test_a_process_that_dies_is_restarted(begun: list[Up], state_dir: Path) -> None:
    up = begin(begun, state_dir)
    before = up.pid_of("worker")

    os.kill(before, signal.SIGKILL)
    is_back = eventually(lambda: up.pid_of("worker") != before, within=WITHIN)

    assert is_back, "\n".join(up.lines)
    assert up.said("The worker ended with exit code -9; restarting it in 0.5 s.")
    assert alive(up.pid_of("worker"))


def test_a_process_that_cannot_start_ends_up_with_its_last_output(begun: list[Up], state_dir: Path) -> None:
    up = begin(begun, state_dir, until="code: part_ended", WORKER="crash")

    assert up.ended() == PartEnded.exit_code
    assert "  no GPU, no worker" in up.lines
    assert "error: The worker ended with exit code 3 before it was ready." in up.lines
    assert not alive(up.pid_of("api"))
    assert not (state_dir / "redis" / "redis.pid").exists()


def test_a_killed_up_leaves_no_api_and_no_worker_and_the_next_one_takes_over_its_redis(
    begun: list[Up], state_dir: Path
) -> None:
    first = begin(begun, state_dir)
    with first.redis() as link:
        link.set("kept", "yes")
        left_behind = int(link.info("server")["process_id"])
    pids = [first.pid_of("api"), first.pid_of("worker")]

    first.process.kill()

    assert eventually(lambda: not any(map(alive, pids)), within=WITHIN)
    second = begin(begun, state_dir)
    assert any(f"Stopped Redis (process {left_behind}) of a killed `aima up`" in line for line in second.lines)
    assert not alive(left_behind)
    with second.redis() as link:
        assert link.get("kept") == "yes"


def test_a_second_ctrl_c_kills_everything_at_once(begun: list[Up], state_dir: Path) -> None:
    up = begin(begun, state_dir, WORKER="stubborn")
    worker = up.pid_of("worker")

    up.process.send_signal(signal.SIGINT)
    assert up.said("SIGINT: stopping")
    assert eventually(lambda: alive(worker))
    up.process.send_signal(signal.SIGINT)

    assert up.ended() == 130
    assert eventually(lambda: not alive(worker))


def test_a_port_in_use_is_reported_before_anything_starts(begun: list[Up], state_dir: Path) -> None:
    first = begin(begun, state_dir)
    command = [sys.executable, str(STAND_INS), "up", str(state_dir.with_name("other")), str(first.port)]

    second = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN.total_seconds(), check=False)

    assert second.returncode == ApiPortTaken.exit_code
    assert str(first.port) in second.stderr
    assert not (state_dir.with_name("other") / "redis").exists()


def test_a_configured_redis_is_used(begun: list[Up], state_dir: Path, redis_url: str) -> None:
    up = begin(begun, state_dir, AIMA_REDIS__URL=redis_url)

    assert not (state_dir / "redis").exists()
    assert up.said("the one in `redis.url`")


def test_a_port_taken_meanwhile_is_left_to_its_holder(tmp_path: Path) -> None:
    first = ManagedRedis(tmp_path)
    same = ManagedRedis(tmp_path).port

    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", first.port))
        squatter.listen()
        other = ManagedRedis(tmp_path).port

    assert same == first.port
    assert other != first.port
