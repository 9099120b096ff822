"""Selects the worker's runtime: the one in the settings, or with `auto` the first that answers.

Only the selected one is imported, which keeps the worker small.
"""

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
            return _docker(settings)
        case "docker-cli":
            return _docker(settings, through_program=True)
        case "process":
            return _processes(settings)
        case "fake":
            from aima_worker.runtimes.fake.runtime import FakeRuntime

            return Choice(FakeRuntime())
        case "auto":
            return _first_that_works(settings)


def remove_network(settings: Settings) -> None:
    """Raises EngineRefused while an engine uses it, DockerUnavailable."""
    from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

    DockerSdkRuntime(settings.docker.host, host=settings.host.name).remove_network(settings.installation)


def _first_that_works(settings: Settings) -> Choice:
    reasons = []
    for through_program in (False, True):
        choice = _docker(settings, through_program=through_program)
        try:
            facts = choice.runtime.facts()
        except DockerUnavailable as unavailable:
            reasons.append(str(unavailable))
        else:
            _log.info("runtime chosen", runtime=facts.kind, version=facts.version)
            return choice
    _log.info("runtime chosen", runtime="process", reason=f"no Docker Engine answers: {' '.join(reasons)}")
    return _processes(settings)


def _docker(settings: Settings, *, through_program: bool = False) -> Choice:
    from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

    docker, host = settings.docker, settings.host.name
    return Choice(DockerSdkRuntime(docker.host, host=host, timeout=docker.timeout, through_program=through_program))


def _processes(settings: Settings) -> Choice:
    from aima_worker.runtimes.process.runtime import ProcessRuntime
    from aima_worker.runtimes.process.users import obstacle

    native, directory = settings.native, settings.state_dir.expanduser() / "processes"
    reason = "`native.users` is none" if native.users is None else obstacle(native.users)
    if reason:
        _log.warning("engines run as the worker's user", reason=reason)
    users = None if reason else native.users
    return Choice(ProcessRuntime(directory, host=settings.host.name, users=users, disk=native.disk), native=True)
