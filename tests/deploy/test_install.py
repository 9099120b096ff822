"""`deploy/install --role`: checks before it changes, systemd runs what it installed, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from deploy.machine import SOURCE, Machine, machine
from lab.parts import eventually
from lab.running import ROOT, engines

from aima_core.settings import NativeSettings

SERVICE = "svc-tiny-dial"
NEWER = "trixie"
"""Debian 13, with systemd 257."""
ROLES = ("worker", "flower", "api")
FLOWER = "http://127.0.0.1:5555/"
NATIVE_USERS = NativeSettings().users or ()
REDIS = "redis://127.0.0.1:6379/0"
KEY = re.compile(r"ed25519:[\w=-]+")
WITHIN = timedelta(seconds=30)


def check_only(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "deploy/install", *words, "--check"], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="a role is installed by root")
def test_a_check_names_every_change_and_makes_none(tmp_path: Path) -> None:
    before = places()

    planned = check_only("--role", "api", "--redis", REDIS)
    refused = check_only("--role", "worker", "--redis", REDIS)

    assert planned.returncode == 0, planned.stderr
    for change in (
        "Installs release",
        "user aima",
        "/etc/aima/api.env",
        "credentials/api/redis.url",
        "aima-api.service",
    ):
        assert change in planned.stdout
    assert refused.returncode != 0
    assert "There is no key to verify orders with." in refused.stderr
    assert "--trusted-key" in refused.stderr
    assert places() == before


@pytest.mark.parametrize(
    "words", [("--role", "gateway"), ("--uninstall",), ("--redis", REDIS), ("--role",)], ids=" ".join
)
def test_words_that_make_no_sense_are_refused(words: tuple[str, ...]) -> None:
    assert check_only(*words).returncode == 2


def places() -> list[tuple[str, bool]]:
    named = ("/opt/aima", "/etc/aima", "/var/lib/aima", "/usr/local/bin/aima", "/etc/systemd/system/aima-api.service")
    return [(name, Path(name).exists()) for name in named]


@pytest.fixture(scope="module", params=[None, NEWER], ids=["this release", NEWER])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Machine]:
    """An API node, a worker and Flower, installed without a booted systemd, then booted."""
    directory, cache = tmp_path_factory.mktemp("machine"), pytestconfig.cache.mkdir("machine")
    with machine(directory, cache=cache, release=request.param) as made:
        engines("install-native", "dial", "--prefix", str(made.root / "usr/local"))
        api = made.install("--role", "api", "--redis", REDIS)
        assert api.returncode == 0, api.stderr
        assert "systemd does not run here: nothing was started." in api.stdout
        (key, *_) = KEY.findall(api.stdout)
        worker = made.install("--role", "worker", "--redis", REDIS, "--trusted-key", key)
        assert worker.returncode == 0, worker.stderr
        flower = made.install("--role", "flower", "--redis", REDIS)
        assert flower.returncode == 0, flower.stderr
        made.boot()
        assert eventually(lambda: live_hosts(made) == [True], within=WITHIN), made.log("aima-worker")
        yield made


def live_hosts(made: Machine) -> list[bool]:
    listed = made.run("aima", "host", "list", "-o", "json")
    return [host["live"] for host in json.loads(listed.stdout)] if listed.returncode == 0 else []


def instance(made: Machine) -> dict[str, object]:
    (found,) = json.loads(made.run("aima", "service", "status", SERVICE, "-o", "json").stdout)["instances"]
    return dict(found)


def group_of(made: Machine, process: str) -> str | None:
    """Its control group in which memory is limited; None if the machine has no controller for that."""
    if made.unified and "memory" not in made.run("cat", "/sys/fs/cgroup/cgroup.controllers").stdout.split():
        return None
    rows = [row.split(":", 2) for row in made.run("cat", f"/proc/{process}/cgroup").stdout.splitlines()]
    return next(path for _, controllers, path in rows if controllers == ("" if made.unified else "memory"))


def is_the_worker_delegated(made: Machine) -> bool:
    """Whether systemd leaves the groups below the worker's unit to it, and the worker may write no others."""
    shown = made.run("systemctl", "show", "--property", "Delegate,DelegateControllers", "aima-worker").stdout.split(
        "\n"
    )
    tree = "/sys/fs/cgroup" if made.unified else "/sys/fs/cgroup/memory"
    inside = ["nsenter", "--target", str(made.process_of("aima-worker")), "--mount", "mkdir"]
    others, own = (made.run(*inside, f"{tree}/system.slice/{name}") for name in ("probe", "aima-worker.service/probe"))
    return "Delegate=yes" in shown and "Read-only" in others.stderr and own.returncode == 0


def flower_answers(made: Machine) -> bool:
    """With 401, as its password is wanted."""
    fetched = made.run("python3", "-c", f"import urllib.request; urllib.request.urlopen({FLOWER!r})")
    return "401" in fetched.stderr


def left_in(made: Machine) -> list[str]:
    """What uninstalling all roles has left."""
    patterns = ("opt/aima", "etc/aima", "var/lib/aima*", "usr/local/bin/aima", "etc/systemd/system/**/aima*")
    files = [str(path) for pattern in patterns for path in made.root.glob(pattern)]
    users = [line for line in (made.root / "etc/passwd").read_text().splitlines() if line.startswith("aima:")]
    return [
        *files,
        *users,
        *made.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "aima*").stdout.split(),
    ]


def engine_process(made: Machine) -> str:
    return made.run("pgrep", "-f", "--oldest", "aima-dial").stdout.strip()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_was_installed_serves_outlives_restarts_and_a_reboot_and_is_uninstalled(installed: Machine) -> None:
    started = installed.run("aima", "service", "start", SERVICE, "--wait")
    assert started.returncode == 0, started.stderr + installed.log("aima-worker")
    engine = engine_process(installed)
    assert int(installed.run("stat", "--format=%u", f"/proc/{engine}").stdout) in NATIVE_USERS
    own_group = group_of(installed, engine)
    assert own_group is None or "/aima-worker.service/aima-" in own_group
    assert is_the_worker_delegated(installed)
    assert flower_answers(installed)

    environment = installed.run("cat", f"/proc/{installed.process_of('aima-api')}/environ").stdout
    assert "CREDENTIALS_DIRECTORY=" in environment
    assert (installed.root / "etc/aima/credentials/api/signing_key").read_text().strip() not in environment
    as_user = installed.run("setpriv", "--reuid=aima", "--clear-groups", "ls", "/etc/aima/credentials", "/var/lib/aima")
    assert as_user.returncode != 0

    again = installed.run(f"{SOURCE}/deploy/install", "--role", "worker")
    assert again.returncode == 0, again.stderr
    assert "already." in again.stdout

    installed.run("systemctl", "restart", "aima-worker", "aima-api")
    assert eventually(
        lambda: live_hosts(installed) == [True] and instance(installed)["state"] == "ready", within=WITHIN
    )
    assert engine_process(installed) == engine
    assert group_of(installed, engine) == own_group
    anew = installed.run("aima", "service", "restart", SERVICE, "--wait")
    assert anew.returncode == 0, anew.stderr + installed.log("aima-worker")
    assert group_of(installed, engine_process(installed)) == own_group

    (installed.root / "etc/aima/api.env").write_text("AIMA_API__PORT=none\n")
    refused = installed.run(f"{SOURCE}/deploy/install", "--role", "api")
    assert refused.returncode != 0
    assert "api.port" in refused.stderr
    assert "bad_settings" not in installed.log("aima-api")
    assert live_hosts(installed) == [True]
    (installed.root / "etc/aima/api.env").write_text("")

    installed.power_off()
    installed.boot()
    assert eventually(lambda: live_hosts(installed) == [True], within=WITHIN), installed.log("aima-worker")
    assert eventually(lambda: instance(installed)["state"] == "ready", within=WITHIN), installed.log("aima-worker")

    kept = installed.run(f"{SOURCE}/deploy/install", "--uninstall", "--role", "worker")
    assert kept.returncode == 0, kept.stderr
    assert engine_process(installed)
    assert (installed.root / "var/lib/aima/processes").exists()
    assert (installed.root / "etc/aima/credentials/worker/redis.url").exists()
    engines_run = installed.run(f"{SOURCE}/deploy/install", "--uninstall", "--role", "worker", "--purge")
    assert "Native engines run here" in engines_run.stderr

    back = installed.run(f"{SOURCE}/deploy/install", "--role", "worker")
    assert back.returncode == 0, back.stderr
    assert eventually(lambda: live_hosts(installed) == [True], within=WITHIN), installed.log("aima-worker")
    stopped = installed.run("aima", "service", "stop", SERVICE, "--wait")
    assert stopped.returncode == 0, stopped.stderr
    for role in ROLES:
        removed = installed.run(f"{SOURCE}/deploy/install", "--uninstall", "--role", role, "--purge")
        assert removed.returncode == 0, removed.stderr
    assert left_in(installed) == []
