"""The real parts that this machine has, each checked once per run."""

from __future__ import annotations

import shutil
from functools import cache

import docker
from docker.errors import DockerException
from lab.redis_server import redis_program

ASK_SECONDS = 60


@cache
def why_not(part: str) -> str | None:
    """The reason why tests marked `part` cannot run here; None if they can."""
    return {"docker": _docker, "registry": _registry, "redis": _redis}[part]()


def _docker() -> str | None:
    try:
        client = docker.from_env(timeout=ASK_SECONDS)
        try:
            client.ping()
        finally:
            client.close()
    except DockerException as failed:
        return f"no Docker Engine answers ({failed}); `tests/check` installs and starts one"
    return None


def _registry() -> str | None:
    if shutil.which("docker-registry") is None:
        return "there is no docker-registry; `apt-get install docker-registry`, or `tests/check` does it"
    return _docker()


def _redis() -> str | None:
    return None if redis_program() else "there is no Redis server; `apt-get install redis-server` brings one"
