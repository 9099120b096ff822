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
from lab.commands import PUBLIC_KEY
from lab.parts import eventually, free_port

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
