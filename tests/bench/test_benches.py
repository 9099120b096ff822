"""Each bench in its shortest form: it sets up its parts, prints its table and removes its parts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import docker
import psutil
import pytest
from lab.images import references
from lab.parts import eventually

from bench.comparison import SMALL
from bench.contending import PROCESSES

ROOT = Path(__file__).resolve().parents[2]
BESIDE_RSYNC = ("3 hosts from a fourth, against one rsync", "3 hosts from a fourth, against rsync in turn")
BESIDE_BITTORRENT = ("3 hosts from a fourth, against BitTorrent", "3 hosts over the uplink, against BitTorrent")


def test_the_command_line_is_measured() -> None:
    ran = _bench("cli", "--rounds", "1")

    heading, *rows = ran.stdout.splitlines()

    assert heading.split() == ["what", "ours", "theirs", "ratio", "figure", "goal"]
    assert [row.partition(",")[0] for row in rows] == ["aima --help", "aima service list"]
    assert all(row.endswith("met") for row in rows)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    code = "import runpy, sys; sys.modules['psutil'] = None; runpy.run_module('bench', run_name='__main__')"

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr == (
        "error: The benches require the package psutil.\nhint: Install it with `./deploy/install --tests`.\n"
    )


@pytest.mark.docker
@pytest.mark.redis
@pytest.mark.slow
def test_a_start_is_measured_and_no_container_is_left_behind() -> None:
    ran = _bench("start", "--rounds", "1")

    rows = ran.stdout.splitlines()[1:]

    assert [row.split("  ")[0] for row in rows] == [
        "start, against docker run -d",
        "start, against two SDK calls",
        "start, against one without signatures",
    ]
    with closing(docker.from_env()) as engine:
        assert engine.containers.list(all=True, filters={"label": "aima.host=bench"}) == []


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.redis
@pytest.mark.slow
def test_a_pull_is_measured_and_no_image_is_left_behind() -> None:
    before = _pulled_images()

    ran = _bench("pull", "--rounds", "1")

    (row,) = ran.stdout.splitlines()[1:]
    assert row.startswith("pull, against docker pull  ")
    assert _pulled_images() <= before


def _pulled_images() -> set[str]:
    with closing(docker.from_env()) as engine:
        return {reference for reference in references(engine) if "bench/layers" in reference}


@pytest.mark.redis
@pytest.mark.slow
def test_submissions_are_measured() -> None:
    ran = _bench("submit", "--rounds", "1")

    rows = ran.stdout.splitlines()[1:]

    assert [row.split(", against ")[1].split("  ")[0] for row in rows] == [
        "an apply_async loop",
        "Flower's async-apply",
        "new ones",
        "an apply_async loop",
    ]


@pytest.mark.redis
@pytest.mark.slow
def test_listings_are_measured() -> None:
    ran = _bench("list", "--rounds", "1")

    rows = ran.stdout.splitlines()[1:]

    assert [row.split("  ")[0] for row in rows] == [
        "list 100 of 1000, against 100 JSON values bare",
        "list 100 of 1000 over HTTP, against 100 JSON values bare",
        "list 100 of 1000, against 100 of 100",
        "list 5000 port leases of 50 hosts over HTTP",
    ]


@pytest.mark.redis
@pytest.mark.slow
def test_port_leases_are_measured_and_none_is_granted_twice() -> None:
    ran = _bench("ports", "--rounds", "1")

    rows = ran.stdout.splitlines()[1:]

    assert [row.split(", against ")[0] for row in rows[:4]] == [
        "200 port leases with 0 of 1000 taken",
        "200 port leases with 500 of 1000 taken",
        "200 port leases with 999 of 1000 taken",
        "1000 port leases by 8 processes",
    ]
    assert rows[-1].startswith("ports that two of them got ")
    assert rows[-1].endswith(" met") and "not met" not in rows[-1]


@pytest.mark.redis
@pytest.mark.slow
def test_an_apply_that_changes_nothing_is_measured() -> None:
    ran = _bench("apply", "--rounds", "1")

    (row,) = ran.stdout.splitlines()[1:]

    assert row.startswith("aima apply of 100 unchanged services  ")


@pytest.mark.redis
@pytest.mark.slow
def test_plans_of_a_large_fleet_are_measured() -> None:
    ran = _bench("plan", "--rounds", "1")

    rows = ran.stdout.splitlines()[1:]

    fleet = "plan of 50 services, 50 hosts with 5000 instances: "
    actions = ("unchanged 50", "recreate 50", "unchanged 2500", "recreate 2500")
    assert [row.split("  ")[0] for row in rows] == [f"{fleet}{each}" for each in actions]


@pytest.mark.redis
@pytest.mark.slow
def test_events_are_measured_and_many_followers_miss_none() -> None:
    ran = _bench("events", "--rounds", "1")

    rows = ran.stdout.splitlines()[1:]

    assert [row.split("  ")[0] for row in rows] == [
        "event from worker to follower over HTTP, against publish to subscriber",
        "event to 100 followers of one operation, p99",
        "the API node's CPU for each of these",
        "events of these that a follower missed, or had twice",
    ]
    assert rows[-1].endswith(" met") and "not met" not in rows[-1]


@pytest.mark.redis
@pytest.mark.slow
def test_the_recovery_of_a_killed_worker_is_measured() -> None:
    ran = _bench("recovery", "--rounds", "1", AIMA_API__MOVE_AFTER="5s")

    rows = ran.stdout.splitlines()[1:]

    assert [row.split("  ")[0] for row in rows] == [
        "worker killed in a start, and back at once: ready after",
        "worker killed in a start, and back at once: of it waiting for leases",
        "worker killed in a start, and another host's goes on: ready after",
        "worker killed in a start, and another host's goes on: of it waiting for leases",
    ]


@pytest.mark.redis
@pytest.mark.slow
def test_many_hosts_and_an_idle_worker_are_measured() -> None:
    ran = _bench("hosts", "--rounds", "1")

    rows = ran.stdout.splitlines()[1:]

    assert [row.split("  ")[0] for row in rows] == [
        "100 idle hosts: a core of Redis",
        "100 idle hosts: commands, those in scripts too",
        "GET /v1/hosts with 100, against HGETALL",
        "idle worker: memory (RSS)",
        "idle worker: Redis commands",
    ]


@pytest.mark.redis
def test_the_sharing_of_models_is_simulated() -> None:
    ran = _bench("sharing", "--rounds", "1")

    assert [row.split("  ")[0] for row in ran.stdout.splitlines()[1:]] == [
        "3 hosts, over the uplink",
        "3 hosts, bytes over the uplink ÷ size",
        "6 hosts, over the uplink",
        "3 hosts, from a fourth",
    ]


@pytest.mark.redis
@pytest.mark.slow
def test_models_reach_hosts_in_namespaces() -> None:
    ran = _bench("models", "--rounds", "1")

    assert [row.split("  ")[0] for row in ran.stdout.splitlines()[1:]] == [
        "3 hosts over the uplink, against one curl",
        "3 hosts: bytes over the uplink ÷ size",
        "3 hosts from a fourth, against one curl",
        *(BESIDE_RSYNC if shutil.which("rsync") else ()),
        *(BESIDE_BITTORRENT if shutil.which("aria2c") else ()),
        "CPU to receive and verify",
        "CPU to send",
        "verification, against sha256sum",
        "killed at 90 %: fetched again ÷ size",
    ]


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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_of_a_killed_bench_die_with_it(number: signal.Signals) -> None:
    _die_with_it(["-m", "bench", "list", "--rounds", "1000"], number, {"redis-server": 1, "aima_api": 1})


@pytest.mark.redis
def test_the_processes_of_a_killed_bench_that_import_their_work_die_with_it(tmp_path: Path) -> None:
    _die_with_it(["-c", CONTENDERS, str(tmp_path)], signal.SIGKILL, {"redis-server": 1, "spawn_main": 1 + PROCESSES})


@pytest.mark.redis
def test_a_terminated_bench_removes_its_parts(tmp_path: Path) -> None:
    _die_with_it(["-m", "bench", "list", "--rounds", "1000"], signal.SIGTERM, {"aima_api": 1}, TMPDIR=str(tmp_path))

    assert list(tmp_path.iterdir()) == []


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
        for process in (bench, *_running(started)):
            process.kill()
        bench.wait()


def _running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running()]


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
