"""The Docker runtime where only the `docker` program is to be had: a context, a tunnel, or a way in of its own.

It does what the SDK's runtime does, from the same template and with the same reading of the engine's answers; a call
is a run of the program, some tens of milliseconds each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from aima_core.domain.hosts import ImageOnHost
from aima_core.errors import ImageNotFound
from aima_worker.runtime import (
    ChangeStream,
    Container,
    ContainerSpec,
    ImageFacts,
    LogStream,
    PullStream,
    RuntimeFacts,
)
from aima_worker.runtimes.docker.cli.changes import ProgramChanges
from aima_worker.runtimes.docker.cli.flags import create_arguments
from aima_worker.runtimes.docker.cli.logs import ProgramFrames
from aima_worker.runtimes.docker.cli.program import DockerProgram
from aima_worker.runtimes.docker.cli.pull import ProgramPull
from aima_worker.runtimes.docker.container_config import container_config
from aima_worker.runtimes.docker.errors import EngineError, engine_refused, is_missing, is_name_taken, is_no_image
from aima_worker.runtimes.docker.lifecycle import DockerRuntime
from aima_worker.runtimes.docker.logs import DockerLogs
from aima_worker.runtimes.docker.parsing import (
    container_inspected,
    facts_of,
    image_inspected,
    images_printed,
    repository_of,
)
from aima_worker.runtimes.docker.pull import DockerPull

_JSON = ("--format", "{{json .}}")


class DockerCli(DockerRuntime):
    """A ContainerRuntime. Any number of threads may use it; it keeps nothing open between calls."""

    def __init__(self, address: str | None = None, *, host: str, timeout: timedelta = timedelta(seconds=60)) -> None:
        super().__init__(host=host)
        self._docker = DockerProgram(address, host=host, timeout=timeout)

    def facts(self) -> RuntimeFacts:
        info = json.loads(self._told("info", *_JSON))
        if errors := info.get("ServerErrors"):  # which the program tells of as if all were well
            raise self._docker.unavailable(" ".join(errors))
        return facts_of(info, kind="docker-cli", local=self._docker.engine_is_here())

    def image(self, image: str) -> ImageFacts | None:
        try:
            said = self._docker.ask("image", "inspect", *_JSON, "--", image)
        except EngineError as refused:
            if is_no_image(refused.words):
                return None
            raise engine_refused(refused.words) from refused
        return image_inspected(json.loads(said), repository=repository_of(image))

    def images(self) -> list[ImageOnHost]:
        return images_printed(map(json.loads, self._told("images", "--digests", *_JSON).splitlines()))

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        return DockerPull(image, ProgramPull(self._docker, image), stall=stall, inspect=self.image)

    def find(self, name: str) -> Container | None:
        # The engine takes the beginning of an id for a name, too.
        return next((each for each in self._inspected(name) if name in (each.name, each.id)), None)

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        wanted = [f"--filter=label={name}={value}" for name, value in labels.items()]
        listed = self._told("ps", "--all", "--quiet", "--no-trunc", *wanted).split()
        return self._inspected(*listed) if listed else []

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        return DockerLogs(
            name,
            frames=lambda wish: ProgramFrames(self._docker, wish),
            inspect=self.find,
            follow=follow,
            tail=tail,
            since=since,
        )

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        return ProgramChanges(self._docker, labels)

    def _create(self, spec: ContainerSpec) -> str | None:
        try:
            return self._docker.ask(*create_arguments(container_config(spec), name=spec.name)).split()[-1]
        except EngineError as refused:
            if is_name_taken(refused.words):
                return None
            if is_no_image(refused.words):
                raise ImageNotFound(image=spec.image, detail=refused.words) from refused
            raise engine_refused(refused.words) from refused

    def _start(self, container: str) -> None:
        self._docker.ask("start", "--", container)

    def _end(self, name: str, *, grace: timedelta) -> None:
        try:
            if grace:
                self._docker.ask("stop", "-t", str(math.ceil(grace.total_seconds())), "--", name, longer=grace)
            self._docker.ask("rm", "--force", "--volumes", "--", name)
        except EngineError as refused:
            if not is_missing(refused.words):
                raise

    def _inspected(self, *names: str) -> list[Container]:
        """Those that are there; what vanishes meanwhile is complained of among the others."""
        said = self._docker.answer("container", "inspect", *_JSON, "--", *names)
        if said.returncode and not is_missing(said.stderr):
            raise self._failure(said.stderr)
        lines: list[dict[str, Any]] = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
        return [container_inspected(each) for each in lines]

    def _told(self, *arguments: str) -> str:
        try:
            return self._docker.ask(*arguments)
        except EngineError as refused:
            raise engine_refused(refused.words) from refused

    def _failure(self, complaint: str) -> Exception:
        failure = self._docker.failure(complaint)
        return engine_refused(failure.words) if isinstance(failure, EngineError) else failure
