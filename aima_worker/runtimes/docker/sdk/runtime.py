"""The Docker runtime over the SDK's low-level API, directly or through the `docker` program."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from docker.errors import DockerException

from aima_core.domain.hosts import ImageOnHost
from aima_core.errors import EngineRefused, ImageInUse, ImageNotFound
from aima_worker.directories import belongs_to_container
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
from aima_worker.runtimes.docker.lifecycle import ContainerLifecycle
from aima_worker.runtimes.docker.parsing import (
    container_inspected,
    container_listed,
    facts_of,
    image_inspected,
    images_listed,
)
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.logs import DockerLogs
from aima_worker.runtimes.docker.sdk.pull import DockerPull
from aima_worker.runtimes.docker.sdk.stream import EngineChanges


class DockerSdkRuntime:
    """A ContainerRuntime. One per worker, shared by all its threads."""

    def __init__(
        self,
        address: str | None = None,
        *,
        host: str,
        timeout: timedelta = timedelta(seconds=60),
        through_program: bool = False,
    ) -> None:
        """See EngineClient; `timeout` is for one call."""
        self._kind: Literal["docker", "docker-cli"] = "docker-cli" if through_program else "docker"
        self._engine = EngineClient(address, host=host, timeout=timeout, through_program=through_program)
        self._calls = SdkCalls(self._engine)
        self._lifecycle = ContainerLifecycle(self._calls, host=host)

    def close(self) -> None:
        """Close the connections to the engine; the next call opens new ones."""
        self._engine.close()

    def facts(self) -> RuntimeFacts:
        with self._engine.calling() as client:
            info = client.info()
        return facts_of(info, kind=self._kind, local=self._engine.local)

    def image(self, image: str) -> ImageFacts | None:
        try:
            with self._engine.calling() as client:
                inspected = client.inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs stop here
        except EngineRefused as refused:
            # 400: a malformed reference names no image.
            if refused.facts["status"] in (400, 404):
                return None
            raise
        return image_inspected(inspected, image=image)

    def images(self) -> list[ImageOnHost]:
        with self._engine.calling() as client:
            return images_listed(client.images())

    def registry_architectures(self, image: str) -> frozenset[str]:
        with self._engine.calling() as client:
            try:
                offered = client.inspect_distribution(image)  # type: ignore[no-untyped-call]  # the stubs stop here
            except DockerException:
                return frozenset()  # the pull reports why
        return frozenset(str(platform["architecture"]) for platform in offered.get("Platforms") or ())

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        return DockerPull(self._engine, image, stall=stall, inspect=self.image)

    def remove_image(self, image: str) -> None:
        try:
            with self._engine.calling() as client:
                client.remove_image(image)
        except EngineRefused as refused:
            if refused.facts["status"] == 409:
                raise ImageInUse(image=image, host=self._engine.host, users=refused.facts["detail"]) from refused
            if refused.facts["status"] != 404:
                raise

    def run(self, spec: ContainerSpec) -> Container:
        return self._lifecycle.run(spec)

    def find(self, name: str) -> Container | None:
        return self._calls.find(name)

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        filters = [f"{name}={value}" for name, value in labels.items()]
        with self._engine.calling() as client:
            listed = client.containers(all=True, filters={"label": filters})
        # A listing lacks the exit code. Race: a container that is removed before it is inspected is left out.
        found = (self.find(each.id) if each.status is Status.EXITED else each for each in map(container_listed, listed))
        return [container for container in found if container is not None]

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        return DockerLogs(self._engine, name, inspect=self.find, follow=follow, tail=tail, since=since)

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        return EngineChanges(self._engine, labels)

    def remove(self, name: str, *, grace: timedelta) -> None:
        self._lifecycle.remove(name, grace=grace)


class SdkCalls:
    """The ContainerCalls of the SDK."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def create(self, spec: ContainerSpec) -> str | None:
        config = container_config(spec)
        try:
            with self._engine.calling() as client:
                created = client.create_container_from_config(config, spec.name)  # type: ignore[no-untyped-call]  # and here
        except EngineRefused as refused:
            if refused.facts["status"] == 409:
                return None
            if refused.facts["status"] == 404:
                raise ImageNotFound(image=spec.image, detail=refused.facts["detail"]) from refused
            raise
        return str(created["Id"])

    def start(self, container: str) -> None:
        with self._engine.calling() as client:
            client.start(container)

    def find(self, name: str) -> Container | None:
        try:
            with self._engine.calling() as client:
                container = container_inspected(client.inspect_container(name), local=self._engine.local)
        except EngineRefused as refused:
            if refused.facts["status"] == 404:
                return None
            raise
        if container.pid is not None and not belongs_to_container(container.pid, container.id):
            container = container.model_copy(update={"pid": None})
        # The engine also accepts a prefix of an id as a name.
        return container if name in (container.name, container.id) else None

    def delete(self, name: str, *, grace: timedelta) -> None:
        try:
            with self._engine.calling() as client:
                if grace:
                    client.stop(name, timeout=math.ceil(grace.total_seconds()))
                client.remove_container(name, v=True, force=True)
        except EngineRefused as refused:
            if refused.facts["status"] != 404:
                raise
