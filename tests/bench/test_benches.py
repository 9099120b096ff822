"""Each bench in its shortest form: it sets up its parts, prints its table and removes its parts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import docker
import psutil
import pytest
from lab.images import references
from lab.parts import eventually, runs

from bench.comparison import SMALL
from bench.contending import PROCESSES
from bench.gateway.clients import MODEL, Load, answers_to
from bench.gateway.site import FAR_MODEL, running_site

ROOT = Path(__file__).resolve().parents[2]
SEVERAL = pytest.mark.timeout(400)
"""For benches one after another, or at once."""
BESIDE_RSYNC = ("3 hosts from a fourth, against one rsync", "3 hosts from a fourth, against rsync in turn")
BESIDE_BITTORRENT = ("3 hosts from a fourth, against BitTorrent", "3 hosts over the uplink, against BitTorrent")
PLANNED = "plan of 5 services, 50 hosts with 500 instances:"
KILLED = "worker killed in a start, and"
ROWS = {
    "cli": ("aima --help, against python -c pass", "aima service list, against python -c pass"),
    "start": (
        "start, against docker run -d",
        "start, against two SDK calls",
        "start, against one without signatures",
    ),
    "pull": ("pull, against docker pull",),
    "submit": (
        "50 starts, against an apply_async loop",
        "50 starts, against Flower's async-apply",
        "50 starts of stopped services, against new ones",
        "100 instances in one request, against an apply_async loop",
    ),
    "list": (
        "list 100 of 1000, against 100 JSON values bare",
        "list 100 of 1000 over HTTP, against 100 JSON values bare",
        "list 100 of 1000, against 100 of 100",
        "list 500 port leases of 50 hosts over HTTP",
    ),
    "ports": (
        *(f"20 port leases with {taken} of 100 taken, against SET NX EX" for taken in (0, 50, 99)),
        f"100 port leases by {PROCESSES} processes, against SET NX EX",
        "port leases per second by these processes",
        "ports that two of them got",
    ),
    "apply": ("aima apply of 10 unchanged services",),
    "plan": tuple(f"{PLANNED} {each}" for each in ("unchanged 5", "recreate 5", "unchanged 250", "recreate 250")),
    "events": (
        "event from worker to follower over HTTP, against publish to subscriber",
        "event to 100 followers of one operation, p99",
        "the API node's CPU for each of these",
        "events of these that a follower missed, or had twice",
    ),
    "recovery": tuple(
        f"{KILLED} {case}: {what}"
        for case in ("back at once", "another host's goes on")
        for what in ("ready after", "of it waiting for leases")
    ),
    "hosts": (
        "100 idle hosts: a core of Redis",
        "100 idle hosts: commands, those in scripts too",
        "GET /v1/hosts with 100, against HGETALL",
        "idle worker: memory (RSS)",
        "idle worker: Redis commands",
    ),
    "sharing": (
        "3 hosts, over the uplink",
        "3 hosts, bytes over the uplink ÷ size",
        "6 hosts, over the uplink",
        "3 hosts, from a fourth",
    ),
    "models": (
        "3 hosts over the uplink, against one curl",
        "3 hosts: bytes over the uplink ÷ size",
        "3 hosts from a fourth, against one curl",
        *(BESIDE_RSYNC if shutil.which("rsync") else ()),
        *(BESIDE_BITTORRENT if shutil.which("aria2c") else ()),
        "CPU to receive and verify, on the LAN",
        "CPU to send, on the LAN",
        "CPU to receive and verify, over the uplink",
        "CPU to send, over the uplink",
        "verification, against sha256sum",
        "killed at 90 %: fetched again ÷ size",
    ),
}
MET = ("ports that two of them got", "events of these that a follower missed")
"""Rows whose goal holds at any size."""


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    code = "import runpy, sys; sys.modules['psutil'] = None; runpy.run_module('bench', run_name='__main__')"

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr == (
        "error: The benches require the package psutil.\nhint: Install it with `./deploy/install --tests`.\n"
    )


@SEVERAL
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [("cli", "submit", "list", "ports"), ("sharing", "apply", "plan", "events", "hosts")],
    ids=" ".join,
)
def test_benches_on_redis_print_a_table(names: tuple[str, ...]) -> None:
    _assert_table(_bench(*names, "--rounds", "1"), *names)


@SEVERAL
@pytest.mark.redis
@pytest.mark.slow
def test_benches_that_wait_most_of_the_time_print_a_table() -> None:
    """At once: the one waits for leases, the other for the links of its hosts."""
    names = ("recovery", "models")

    with ThreadPoolExecutor(len(names)) as threads:
        ran = list(threads.map(lambda name: _bench(name, "--rounds", "1", AIMA_API__MOVE_AFTER="5s"), names))

    for name, each in zip(names, ran, strict=True):
        _assert_table(each, name)


@SEVERAL
@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.redis
@pytest.mark.slow
def test_a_start_and_a_pull_are_measured_and_neither_container_nor_image_is_left_behind() -> None:
    before = _pulled_images()

    ran = _bench("start", "pull", "--rounds", "1")

    assert _names_of(ran.stdout.splitlines()[1:]) == [*ROWS["start"], *ROWS["pull"]]
    assert _pulled_images() <= before
    with closing(docker.from_env()) as engine:
        assert engine.containers.list(all=True, filters={"label": "aima.host=bench"}) == []


def _assert_table(ran: subprocess.CompletedProcess[str], *names: str) -> None:
    heading, *rows = ran.stdout.splitlines()

    assert heading.split() == ["what", "ours", "theirs", "ratio", "figure", "goal"]
    assert _names_of(rows) == [row for name in names for row in ROWS[name]]
    assert [row for row in rows if row.startswith(MET) and (not row.endswith(" met") or "not met" in row)] == []


def _names_of(rows: list[str]) -> list[str]:
    return [row.split("  ")[0] for row in rows]


def _pulled_images() -> set[str]:
    with closing(docker.from_env()) as engine:
        return {reference for reference in references(engine) if "bench/layers" in reference}


def test_a_bench_with_missing_requirements_is_skipped_with_the_reason() -> None:
    ran = _bench("start", succeeds=False, DOCKER_HOST="unix:///nowhere.sock")

    assert "start is left out: no Docker Engine answers" in ran.stderr


def test_an_unknown_bench_is_refused_with_the_names_of_all() -> None:
    ran = _bench("strat", succeeds=False)

    names = "start, pull, submit, apply, plan, list, ports, events, recovery, hosts, gateway, sharing, models, cli"
    assert f"there is no bench strat; there are {names}" in ran.stderr


CONTENDERS = """
import sys, time
from pathlib import Path
from bench.contending import contenders
from bench.elsewhere import elsewhere, subscribe
from bench.installation import HOST, own_redis

with own_redis(Path(sys.argv[1])) as server, elsewhere(subscribe, server.url, "bare"):
    with contenders(server.url, HOST, range(18500, 18516)) as them:
        while True:
            them.set_keys()
"""


@pytest.mark.redis
def test_the_gateway_of_its_bench_serves_directly_and_through_a_data_plane() -> None:
    with running_site() as site:
        answers = [answers_to(Load(site.url, model, site.key))[0] for model in (MODEL, FAR_MODEL)]

    assert [answer.status for answer in answers] == [200, 200]


@pytest.mark.redis
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_of_a_killed_bench_die_with_it(number: signal.Signals, tmp_path: Path) -> None:
    """A terminated one also removes its directories."""
    parts = {"redis-server": 1, "aima_api": 1}

    _die_with_it(["-m", "bench", "list", "--rounds", "1000"], number, parts, TMPDIR=str(tmp_path))

    assert number is signal.SIGKILL or list(tmp_path.iterdir()) == []


@pytest.mark.redis
def test_the_processes_of_a_killed_bench_that_import_their_work_die_with_it(tmp_path: Path) -> None:
    _die_with_it(["-c", CONTENDERS, str(tmp_path)], signal.SIGKILL, {"redis-server": 1, "spawn_main": 1 + PROCESSES})


def _die_with_it(arguments: list[str], number: signal.Signals, expected: Mapping[str, int], **environment: str) -> None:
    """`expected` processes, by a part of their command lines."""
    bench = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), SMALL: "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started: list[psutil.Process] = []

    def has_started_them() -> bool:
        assert bench.poll() is None
        started[:] = psutil.Process(bench.pid).children(recursive=True)
        commands = [" ".join(_words_of(each)) for each in started]
        return all(sum(part in each for each in commands) >= count for part, count in expected.items())

    try:
        assert eventually(has_started_them, within=timedelta(seconds=60), every=timedelta(milliseconds=100))
        bench.send_signal(number)
        bench.wait(60)
        assert eventually(lambda: not _running(started), within=timedelta(seconds=30)), _running(started)
    finally:
        bench.kill()
        for process in _running(started):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        bench.wait()


def _running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if runs(each)]


def _words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _bench(*arguments: str, succeeds: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, SMALL: "1", **environment},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode == 0) is succeeds, ran.stderr
    return ran
