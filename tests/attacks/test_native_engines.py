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
    NativeHosts,
    native_hosts,
    open_directory,
    processes,
    service_of,
)
from lab.commands import PUBLIC_KEY
from lab.parts import eventually, free_port
from lab.redis_server import RedisServer
from worker.runtimes.process.test_full_disk import SIZE, fill, small_disk

from aima_worker.runtimes.process.files import FREE_SPACE_SHARE, LOG, older

WITHIN = timedelta(seconds=90)
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


# Hostile engines on two hosts --------------------------------------------------------------------------------------


@pytest.fixture
def hosts(own_redis: RedisServer) -> Iterator[NativeHosts]:
    with open_directory() as directory:
        states = {name: directory / name for name in ("alpha", "beta")}
        with native_hosts(own_redis.url, directory, states=states) as hosts:
            yield hosts


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_engines_harm_nothing_but_themselves(hosts: NativeHosts) -> None:
    keys = [hosts.directory / "key", *(state / "identity" for state in hosts.states.values())]
    keys[0].touch(mode=0o600)
    (hosts.directory / "targets").write_text("\n".join(map(str, keys)))

    hosts.started(*ATTACKS)

    for host in hosts.states:
        check_harmed_nothing(hosts, host)
    assert hosts.alive == ["alpha", "beta"]
    hosts.stopped(*ATTACKS)
    assert processes() == []
    assert hosts.get("ports")["items"] == []
    assert [each for state in hosts.states.values() for each in (state / "processes").iterdir()] == []
    assert hosts.alive == ["alpha", "beta"]


def check_harmed_nothing(hosts: NativeHosts, host: str) -> None:
    snooped: list[str] = []

    def has_snooped() -> bool:
        snooped[:] = hosts.log_of("snoop", host)
        return "snooped" in snooped

    assert eventually(has_snooped, within=WITHIN), hosts.log()
    over = "killed by AIMA: its files take"
    assert eventually(lambda: over in str(hosts.instance("disk", host)), within=WITHIN), hosts.log()
    assert eventually(lambda: hosts.instance("memory", host)["state"] != "ready", within=WITHIN), hosts.log()
    assert eventually(lambda: len(hosts.processes_of("forks", host)) > PIDS // 2, within=WITHIN), hosts.log()
    assert len(hosts.processes_of("forks", host)) <= PIDS
    assert [line for line in snooped if line.startswith("SUCCEEDED")] == []
    assert "NoNewPrivs:\t1" in snooped
    assert hosts.serves("none", host)
    assert hosts.get(f"hosts/{host}")["live"]


# A full disk -------------------------------------------------------------------------------------------------------


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_a_full_state_directory_engines_are_listed_read_and_stopped(own_redis: RedisServer) -> None:
    with (
        open_directory() as directory,
        small_disk(directory / "state") as state,
        native_hosts(own_redis.url, directory, states={"alpha": state}) as host,
    ):
        host.started("none", "log", "deaf")
        assert eventually(lambda: older(host.engine_directory("log") / LOG).exists(), within=WITHIN), host.log()
        assert host.log_size("log") <= 2 * SIZE // FREE_SPACE_SHARE

        fill(state)

        assert {each["state"] for each in (host.instance("none"), host.instance("log"))} == {"ready"}
        assert eventually(lambda: any("flood" in line for line in host.log_of("log")), within=WITHIN), host.log()
        host.stopped("log")  # which gives room back
        fill(state)
        assert host.ended(host.api.start(service_of("snoop"))) == {"failed"}
        host.stop_worker()
        host.start_worker()
        assert host.serves("none")
        host.stopped("none", "deaf")
        assert processes() == []
        assert host.alive == ["alpha"]
        assert not [line for line in host.log().splitlines() if "Traceback" in line]
