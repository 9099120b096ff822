"""The Docker runtime: containers through the engine's low-level API, in as few calls as can be.

Starting takes two calls, create and start; the rest is asked only when one of them is refused. Everything the engine
refuses is told by its words, for it has no codes: which words mean what is said here, and for pulls in `docker_pull`.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from docker.errors import APIError

from aima_core.failures import AimaError, DockerUnavailable, EngineRefused, GpuUnavailable, ImageNotFound, PortTaken
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
from aima_worker.runtimes.docker_changes import DockerChanges
from aima_worker.runtimes.docker_client import EngineClient
from aima_worker.runtimes.docker_logs import DockerLogs
from aima_worker.runtimes.docker_pull import DockerPull
from aima_worker.runtimes.docker_reading import container_inspected, container_listed, image_inspected
from aima_worker.runtimes.docker_reference import image_name
from aima_worker.runtimes.docker_template import FINGERPRINT_LABEL, container_config

NAME_SECONDS = 15.0
"""That a name may stay taken by what is being made or removed by others."""
POLL_SECONDS = 0.05
REMOVAL_SECONDS = 10.0
"""That another's removal of the same container may take."""
GPU_HOOK = "nvidia-container-runtime-hook"
"""An engine that found this program as it started gives GPUs to containers."""
CONTAINERD_ROOT = Path("/var/lib/containerd")
_PORT_TAKEN = ("port is already allocated", "address already in use")
_NO_GPU = ("could not select device driver", "nvidia-container-cli", "unresolvable cdi devices", "no known gpu")


class DockerEngine:
    """A ContainerRuntime. One for the whole process; any number of threads may use it."""

    def __init__(self, address: str | None = None, *, host: str, timeout: timedelta = timedelta(seconds=60)) -> None:
        self._host = host
        self._engine = EngineClient(address, host=host, timeout=timeout)

    def facts(self) -> RuntimeFacts:
        with self._engine.asking() as client:
            info = client.info()
        return RuntimeFacts(
            kind="docker",
            version=info["ServerVersion"],
            gpus=self._gives_gpus(info),
            disk_free=_disk_free(info) if self._engine.local else None,
            live_restore=bool(info.get("LiveRestoreEnabled")),
        )

    def image(self, image: str) -> ImageFacts | None:
        with self._engine.asking() as client:
            try:
                said = client.inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs stop here
            except APIError as refused:
                # 400: what is no reference names no image.
                if refused.status_code in (400, 404):
                    return None
                raise self._refused(refused) from refused
        return image_inspected(said, repository=_repository(image))

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        return DockerPull(self._engine, image, stall=stall, inspect=self.image)

    def run(self, spec: ContainerSpec) -> Container:
        deadline = time.monotonic() + NAME_SECONDS
        while time.monotonic() < deadline:
            if (made := self._create(spec)) is not None:
                return self._start(made, spec, {**spec.labels, FINGERPRINT_LABEL: spec.fingerprint})
            if (standing := self.find(spec.name)) is None:
                # Its name is taken before it can be seen, and given back after it has gone.
                time.sleep(POLL_SECONDS)
            elif (adopted := self._adopt(standing, spec)) is not None:
                return adopted
        raise self._refused(f"the name {spec.name} stays taken by a container that cannot be seen")

    def find(self, name: str) -> Container | None:
        with self._engine.asking() as client:
            try:
                said = client.inspect_container(name)
            except APIError as refused:
                if refused.status_code == 404:
                    return None
                raise self._refused(refused) from refused
        container = container_inspected(said)
        # The engine takes the beginning of an id for a name, too.
        return container if name in (container.name, container.id) else None

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with self._engine.asking() as client:
            try:
                listed = client.containers(all=True, filters={"label": wanted})
            except APIError as refused:
                raise self._refused(refused) from refused
        found = (self._completed(container_listed(each)) for each in listed)
        return [container for container in found if container is not None]

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        return DockerLogs(self._engine, name, inspect=self.find, follow=follow, tail=tail, since=since)

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        return DockerChanges(self._engine, labels)

    def remove(self, name: str, *, grace: timedelta) -> None:
        with self._engine.asking() as client:
            try:
                if grace:
                    client.stop(name, timeout=math.ceil(grace.total_seconds()))
                client.remove_container(name, v=True, force=True)
            except APIError as refused:
                if refused.status_code != 404 and not self._goes_away(name, refused):
                    raise self._refused(refused) from refused

    # Making one -------------------------------------------------------------------------------------------------

    def _adopt(self, standing: Container, spec: ContainerSpec) -> Container | None:
        """What stands under the name, running; None once it has been cleared away for not being what is wanted."""
        if FINGERPRINT_LABEL not in standing.labels:
            raise self._refused(f"a container named {spec.name} is there, and is not AIMA's")
        if standing.status is Status.EXITED or standing.labels[FINGERPRINT_LABEL] != spec.fingerprint:
            self.remove(standing.id, grace=timedelta(0))
            return None
        # One that was made and not started may be about to be: starting is the engine's to do once.
        return standing if standing.status is Status.RUNNING else self._start(standing.id, spec, standing.labels)

    def _create(self, spec: ContainerSpec) -> str | None:
        """The id of the container made; None if the name is taken."""
        with self._engine.asking() as client:
            try:
                config = container_config(spec)
                made = client.create_container_from_config(config, spec.name)  # type: ignore[no-untyped-call]  # and here
            except APIError as refused:
                if refused.status_code == 409:
                    return None
                if refused.status_code == 404:
                    raise ImageNotFound(image=spec.image, detail=_words(refused)) from refused
                raise self._refused(refused) from refused
        return str(made["Id"])

    def _start(self, container: str, spec: ContainerSpec, labels: Mapping[str, str]) -> Container:
        started_at = datetime.now(UTC)
        try:
            with self._engine.asking() as client:
                client.start(container)
        except APIError as refused:
            self._clear_away(container)
            raise self._why_not_started(refused, spec) from refused
        except DockerUnavailable:
            self._clear_away(container)
            raise
        return Container(
            id=container,
            name=spec.name,
            status=Status.RUNNING,
            labels=labels,
            image=spec.image,
            started_at=started_at,
            host_ports={spec.container_port: spec.host_port},
        )

    def _clear_away(self, container: str) -> None:
        # What stays because the engine is away has its name and fingerprint: the next start replaces it.
        with suppress(DockerUnavailable, EngineRefused):
            self.remove(container, grace=timedelta(0))

    def _why_not_started(self, refused: APIError, spec: ContainerSpec) -> AimaError:
        said = _words(refused)
        if any(words in said.lower() for words in _PORT_TAKEN):
            return PortTaken(port=spec.host_port, host=self._host, holder="another container or program")
        if spec.gpus is not None and any(words in said.lower() for words in _NO_GPU):
            return GpuUnavailable(host=self._host, detail=said)
        return self._refused(refused)

    def _refused(self, why: APIError | str) -> EngineRefused:
        return EngineRefused(runtime="Docker Engine", detail=why if isinstance(why, str) else _words(why))

    # Asking and waiting -----------------------------------------------------------------------------------------

    def _completed(self, listed: Container) -> Container | None:
        """A listing does not say how a container ended; one that vanishes meanwhile has ended in any case."""
        return self.find(listed.id) if listed.status is Status.EXITED else listed

    def _goes_away(self, name: str, refused: APIError) -> bool:
        """Whether the container vanishes by itself, since somebody else is removing it already."""
        if "already in progress" not in _words(refused):
            return False
        leaving = self.find(name)
        deadline = time.monotonic() + REMOVAL_SECONDS
        while leaving is not None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            leaving = self.find(leaving.id)
        return leaving is None

    def _gives_gpus(self, info: Mapping[str, Any]) -> bool:
        announced = "nvidia" in (info.get("Runtimes") or {}) or any(
            "nvidia.com/gpu" in str(device.get("ID")) for device in info.get("DiscoveredDevices") or []
        )
        return announced or (self._engine.local and shutil.which(GPU_HOOK) is not None)


def _words(refused: APIError) -> str:
    return str(refused.explanation or refused).strip()


def _repository(image: str) -> str | None:
    try:
        return image_name(image).repository
    except ValueError:
        return None  # an id


def _disk_free(info: Mapping[str, Any]) -> int | None:
    roots = [Path(info["DockerRootDir"])]
    if any("containerd.snapshotter" in str(each) for each in info.get("DriverStatus") or []):
        roots.append(CONTAINERD_ROOT)
    free = [usage.f_bavail * usage.f_frsize for usage in map(os.statvfs, filter(Path.exists, roots))]
    return min(free, default=None)
