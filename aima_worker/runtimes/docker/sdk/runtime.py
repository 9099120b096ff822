"""The Docker runtime: containers through the engine's low-level API, in as few calls as can be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from docker.errors import APIError, DockerException

from aima_core.domain.hosts import ImageOnHost
from aima_core.errors import EngineRefused, ImageNotFound
from aima_worker.runtime import (
    ChangeStream,
    Container,
    ContainerSpec,
    ImageFacts,
    LogStream,
    PullStream,
    RuntimeFacts,
    Status,
)
from aima_worker.runtimes.docker.container_config import container_config
from aima_worker.runtimes.docker.errors import EngineError, engine_refused
from aima_worker.runtimes.docker.lifecycle import DockerRuntime
from aima_worker.runtimes.docker.logs import DockerLogs
from aima_worker.runtimes.docker.parsing import (
    container_changed,
    container_inspected,
    container_listed,
    facts_of,
    image_inspected,
    images_listed,
    repository_of,
)
from aima_worker.runtimes.docker.pull import DockerPull
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.stream import EngineFrames, EnginePull, EngineStream


class DockerChanges:
    """A ChangeStream. Iterated by one thread, closed by any."""

    def __init__(self, engine: EngineClient, labels: Mapping[str, str]) -> None:
        wanted = {"type": ["container"], "label": [f"{name}={value}" for name, value in labels.items()]}
        self._stream = EngineStream(engine, "GET", "/events", params={"filters": json.dumps(wanted)})

    def __iter__(self) -> Iterator[str]:
        try:
            self._stream.open(within=None)
            rest = b""
            while chunk := self._stream.next(within=None):
                *events, rest = (rest + chunk).split(b"\n")
                yield from map(container_changed, filter(None, events))
        except EngineError as refused:
            raise engine_refused(refused.words) from refused
        finally:
            self._stream.close()

    def close(self) -> None:
        self._stream.close()


class EngineMaking(DockerRuntime):
    def __init__(self, engine: EngineClient, *, host: str) -> None:
        super().__init__(host=host)
        self._engine = engine

    def _create(self, spec: ContainerSpec) -> str | None:
        with self._engine.asking() as client:
            try:
                config = container_config(spec)
                made = client.create_container_from_config(config, spec.name)  # type: ignore[no-untyped-call]  # and here
            except APIError as refused:
                if refused.status_code == 409:
                    return None
                if refused.status_code == 404:
                    raise ImageNotFound(image=spec.image, detail=_words(refused)) from refused
                raise refused_by_engine(refused) from refused
        return str(made["Id"])

    def _start(self, container: str) -> None:
        with self._engine.asking() as client:
            try:
                client.start(container)
            except APIError as refused:
                raise EngineError(_words(refused)) from refused

    def _end(self, name: str, *, grace: timedelta) -> None:
        with self._engine.asking() as client:
            try:
                if grace:
                    client.stop(name, timeout=math.ceil(grace.total_seconds()))
                client.remove_container(name, v=True, force=True)
            except APIError as refused:
                if refused.status_code != 404:
                    raise EngineError(_words(refused)) from refused


def refused_by_engine(why: APIError) -> EngineRefused:
    return engine_refused(_words(why))


def _words(refused: APIError) -> str:
    return str(refused.explanation or refused).strip()


class DockerEngine(EngineMaking):
    """A ContainerRuntime. One for the whole process; any number of threads may use it."""

    def __init__(self, address: str | None = None, *, host: str, timeout: timedelta = timedelta(seconds=60)) -> None:
        super().__init__(EngineClient(address, host=host, timeout=timeout), host=host)

    def close(self) -> None:
        """Let the connections to the engine go; whoever asks again has new ones."""
        self._engine.close()

    def facts(self) -> RuntimeFacts:
        with self._engine.asking() as client:
            info = client.info()
        return facts_of(info, kind="docker", local=self._engine.local)

    def image(self, image: str) -> ImageFacts | None:
        with self._engine.asking() as client:
            try:
                said = client.inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs stop here
            except APIError as refused:
                # 400: what is no reference names no image.
                if refused.status_code in (400, 404):
                    return None
                raise refused_by_engine(refused) from refused
        return image_inspected(said, repository=repository_of(image))

    def images(self) -> list[ImageOnHost]:
        with self._engine.asking() as client:
            try:
                return images_listed(client.images())
            except APIError as refused:
                raise refused_by_engine(refused) from refused

    def registry_architectures(self, image: str) -> frozenset[str]:
        with self._engine.asking() as client:
            try:
                told = client.inspect_distribution(image)  # type: ignore[no-untyped-call]  # the stubs stop here
            except (APIError, DockerException):
                return frozenset()  # the pull will tell why
        return frozenset(str(platform["architecture"]) for platform in told.get("Platforms") or ())

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        return DockerPull(image, EnginePull(self._engine, image), stall=stall, inspect=self.image)

    def find(self, name: str) -> Container | None:
        with self._engine.asking() as client:
            try:
                said = client.inspect_container(name)
            except APIError as refused:
                if refused.status_code == 404:
                    return None
                raise refused_by_engine(refused) from refused
        container = container_inspected(said)
        # The engine takes the beginning of an id for a name, too.
        return container if name in (container.name, container.id) else None

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with self._engine.asking() as client:
            try:
                listed = client.containers(all=True, filters={"label": wanted})
            except APIError as refused:
                raise refused_by_engine(refused) from refused
        found = (self._completed(container_listed(each)) for each in listed)
        return [container for container in found if container is not None]

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        return DockerLogs(
            name,
            frames=lambda wish: EngineFrames(self._engine, wish),
            inspect=self.find,
            follow=follow,
            tail=tail,
            since=since,
        )

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        return DockerChanges(self._engine, labels)

    def _completed(self, listed: Container) -> Container | None:
        """A listing does not say how a container ended; one that vanishes meanwhile has ended in any case."""
        return self.find(listed.id) if listed.status is Status.EXITED else listed
