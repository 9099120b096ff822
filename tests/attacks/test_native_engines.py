"""A native engine, and other programs of the same host, go after the worker: its keys, its host, its neighbours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from attacks.native_host import (
    ATTACKS,
    PIDS,
    NativeHost,
    native_host,
    open_directory,
    processes,
    service_of,
)
from lab.commands import PUBLIC_KEY
from lab.parts import eventually, free_port
from lab.redis_server import RedisServer
from worker.runtimes.process.test_full_disk import SIZE, fill, small_disk

from aima_worker.runtimes.process.files import FREE_SPACE_SHARE, LOG, older

WITHIN = timedelta(seconds=30)
PASSWORD = "the-password-of-this-worker"


def without_capabilities() -> list[str]:
    """The words before a program: root may read everything, unless it has no capability, as any other user."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@contextmanager
def running_worker(directory: Path, *before: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that waits for a Redis which is not there."""
    environment = {
        **os.environ,
        "AIMA_STATE_DIR": str(directory / "state"),
        "AIMA_HOST__NAME": "alpha",
        "AIMA_RUNTIME": "fake",
        "AIMA_TRUSTED_KEYS": f'["{PUBLIC_KEY}"]',
        **settings,
    }
    log = directory / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [*before, sys.executable, "-m", "aima_worker"], env=environment, stdout=output, stderr=output
        )
        try:
            assert eventually(lambda: b"waiting for Redis" in log.read_bytes(), within=WITHIN), log.read_text()
            yield worker
        finally:
            worker.terminate()
            worker.wait(WITHIN.total_seconds())


@pytest.fixture
def url() -> str:
    return f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"


def read_as_the_same_user(file: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*without_capabilities(), "head", "-c", "99999", file], capture_output=True)


def test_a_process_of_the_worker_s_user_reads_neither_its_environment_nor_its_memory(tmp_path: Path, url: str) -> None:
    with running_worker(tmp_path, *without_capabilities(), AIMA_REDIS__URL=url) as worker:
        found = {name: read_as_the_same_user(f"/proc/{worker.pid}/{name}") for name in ("environ", "maps", "cmdline")}

    assert found["cmdline"].returncode == 0, "the reader does not work"
    assert found["environ"].stdout == b""
    assert found["maps"].stdout == b""
    assert b"Permission denied" in found["environ"].stderr


def test_keys_by_file_are_in_no_process_environment(tmp_path: Path, url: str) -> None:
    (tmp_path / "aima_redis.url").write_text(url)

    with running_worker(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path)) as worker:
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes() if os.geteuid() == 0 else b""
        log = (tmp_path / "worker.log").read_text()

    assert PASSWORD.encode() not in environment
    assert PASSWORD not in log
    assert url.rpartition("@")[2].partition("/")[0] in log


# Hostile engines on a host -----------------------------------------------------------------------------------------


@pytest.fixture
def host(own_redis: RedisServer) -> Iterator[NativeHost]:
    with open_directory() as directory, native_host(own_redis.url, directory, state=directory / "state") as host:
        yield host


@pytest.mark.redis
@pytest.mark.slow
def test_hostile_engines_harm_nothing_but_themselves(host: NativeHost) -> None:
    keys = [host.directory / "key", host.state / "identity"]
    keys[0].touch(mode=0o600)
    (host.directory / "targets").write_text("\n".join(map(str, keys)))

    host.started(*ATTACKS)

    assert eventually(lambda: "snooped" in host.log_of("snoop"), within=WITHIN), host.log()
    assert eventually(lambda: "killed by AIMA: its files take" in str(host.instance("disk")), within=WITHIN), host.log()
    assert eventually(lambda: host.instance("memory")["state"] != "ready", within=WITHIN), host.log()
    assert eventually(lambda: len(host.processes_of("forks")) > PIDS // 2, within=WITHIN), host.log()
    assert len(host.processes_of("forks")) <= PIDS
    assert [line for line in host.log_of("snoop") if line.startswith("SUCCEEDED")] == []
    assert "NoNewPrivs:\t1" in host.log_of("snoop")
    assert host.serves("none")
    assert host.get("hosts/alpha")["live"]
    host.stopped(*ATTACKS)
    assert processes() == []
    assert host.get("ports")["items"] == []
    assert list((host.state / "processes").iterdir()) == []
    assert host.worker is not None
    assert host.worker.poll() is None


# A full disk -------------------------------------------------------------------------------------------------------


@pytest.mark.redis
@pytest.mark.slow
def test_on_a_full_state_directory_engines_are_listed_read_and_stopped(own_redis: RedisServer) -> None:
    with (
        open_directory() as directory,
        small_disk(directory / "state") as state,
        native_host(own_redis.url, directory, state=state) as host,
    ):
        host.started("none", "log", "deaf")
        assert eventually(lambda: older(host.engine_directory("log") / LOG).exists(), within=WITHIN), host.log()
        assert host.log_size("log") <= 2 * SIZE // FREE_SPACE_SHARE

        fill(state)

        assert {each["state"] for each in (host.instance("none"), host.instance("log"))} == {"ready"}
        assert any("flood" in line for line in host.log_of("log"))
        host.stopped("log")  # which gives room back
        fill(state)
        assert host.ended(host.api.start(service_of("snoop"))) == {"failed"}
        host.stop_worker()
        host.start_worker()
        assert host.serves("none")
        host.stopped("none", "deaf")
        assert processes() == []
        assert host.worker is not None
        assert host.worker.poll() is None
        assert not [line for line in host.log().splitlines() if "Traceback" in line]
