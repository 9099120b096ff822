"""Selects the worker's runtime: the one in the settings, or with `auto` the first that answers.

Only the selected one is imported, which keeps the worker small.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog

from aima_core.errors import DockerUnavailable
from aima_core.settings import Settings
from aima_worker.runtime import ContainerRuntime

_log = structlog.get_logger()


class Choice(NamedTuple):
    runtime: ContainerRuntime
    native: bool = False
    """Whether it runs processes rather than containers."""


def choose_runtime(settings: Settings) -> Choice:
    """`auto` polls the Docker Engine once, by the SDK and then through the `docker` program; else native processes."""
    match settings.runtime:
        case "docker":
            return Choice(_docker(settings))
        case "docker-cli":
            return Choice(_docker(settings, through_program=True))
        case "process":
            return Choice(_processes(settings), native=True)
        case "fake":
            return Choice(_fake())
        case "auto":
            return _first_that_works(settings)


def _first_that_works(settings: Settings) -> Choice:
    reasons = []
    for through_program in (False, True):
        runtime = _docker(settings, through_program=through_program)
        try:
            facts = runtime.facts()
        except DockerUnavailable as unavailable:
            reasons.append(str(unavailable))
        else:
            _log.info("runtime chosen", runtime=facts.kind, version=facts.version)
            return Choice(runtime)
    _log.info("runtime chosen", runtime="process", reason=f"no Docker Engine answers: {' '.join(reasons)}")
    return Choice(_processes(settings), native=True)


def _docker(settings: Settings, *, through_program: bool = False) -> ContainerRuntime:
    from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

    return DockerSdkRuntime(
        settings.docker.host,
        host=settings.host.name,
        timeout=settings.docker.timeout,
        through_program=through_program,
    )


def _processes(settings: Settings) -> ContainerRuntime:
    from aima_worker.runtimes.process.runtime import ProcessRuntime

    return ProcessRuntime(settings.state_dir.expanduser() / "processes", host=settings.host.name)


def _fake() -> ContainerRuntime:
    from aima_worker.runtimes.fake.runtime import FakeRuntime

    return FakeRuntime()
