"""Creates or adopts, starts and removes containers: the decisions, over four calls to the engine.

A start is idempotent: the engine's name is the lock, the fingerprint decides whether to adopt. A crash between create
and start leaves a container that the next start adopts or replaces, and a refused start is rolled back.
"""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol

from aima_core.errors import (
    AimaError,
    DockerUnavailable,
    EngineRefused,
    GpuUnavailable,
    ModelPathChanged,
    PortTaken,
    SecretUnsafe,
)
from aima_worker.runtime import Container, ContainerSpec, Status
from aima_worker.runtimes.docker.container_config import FINGERPRINT_LABEL
from aima_worker.runtimes.docker.parsing import engine_refused
from aima_worker.runtimes.mounts import SeenMount, verify_mounts

NAME_TIMEOUT = timedelta(seconds=15)
"""How long to retry while a concurrent create or removal holds the name."""
REMOVAL_TIMEOUT = timedelta(seconds=10)
"""How long to poll for the end of a concurrent removal of the same container."""
# The engine has no codes for these refusals, so their words are matched.
_PORT_TAKEN = ("port is already allocated", "address already in use")
_NO_GPU = ("could not select device driver", "nvidia-container-cli", "unresolvable cdi devices", "no known gpu")
_REMOVING = "already in progress"
_NETWORK_GONE = re.compile(r"network \S+ not found")
POLL_INTERVAL = timedelta(milliseconds=50)


class ContainerCalls(Protocol):
    """The calls to one engine. Each may raise DockerUnavailable."""

    def create(self, spec: ContainerSpec) -> str | None:
        """The id of the container created; None if its name is taken. Raises ImageNotFound, EngineRefused."""
        ...

    def grant_secrets(self, container: str, spec: ContainerSpec) -> None:
        """Lets the user of the container read its files of secrets. Raises EngineRefused, SecretUnsafe."""
        ...

    def start(self, container: str) -> None:
        """Raises EngineRefused."""
        ...

    def find(self, name: str) -> Container | None:
        """The container of that name or id; None if there is none. Raises EngineRefused."""
        ...

    def delete(self, name: str, *, grace: timedelta) -> None:
        """Stop it and delete it with its volumes; do nothing if there is none. Raises EngineRefused."""
        ...


class _NetworkRemoved(Exception):
    """Between create and start: the container was rolled back."""


class ContainerLifecycle:
    def __init__(self, calls: ContainerCalls, *, host: str) -> None:
        self._calls = calls
        self._host = host

    def run(self, spec: ContainerSpec) -> Container:
        container = self._create_or_adopt(spec)
        self._verify(container, spec)  # an adopted one, too: a worker may have crashed between its start and this check
        return container

    def _create_or_adopt(self, spec: ContainerSpec) -> Container:
        deadline = time.monotonic() + NAME_TIMEOUT.total_seconds()
        while time.monotonic() < deadline:
            if (created := self._calls.create(spec)) is not None:
                try:
                    return self._start(created, spec, {**spec.labels, FINGERPRINT_LABEL: spec.spec_hash})
                except _NetworkRemoved:  # race: the next create makes it again
                    continue
            if (existing := self._calls.find(spec.name)) is None:
                # Race: a name is taken before its container is visible, and released after the container is gone.
                time.sleep(POLL_INTERVAL.total_seconds())
            elif (adopted := self._adopt(existing, spec)) is not None:
                return adopted
        raise engine_refused(f"the name {spec.name} is taken by a container that the engine does not list")

    def remove(self, name: str, *, grace: timedelta) -> None:
        try:
            self._calls.delete(name, grace=grace)
        except EngineRefused as refused:
            if _REMOVING not in str(refused) or not self._vanishes(name):
                raise

    def _adopt(self, existing: Container, spec: ContainerSpec) -> Container | None:
        """The container, running; None once it was removed, because it has exited or its spec is stale."""
        if FINGERPRINT_LABEL not in existing.labels:
            raise engine_refused(f"a container named {spec.name} exists, and is not AIMA's")
        if existing.status is Status.EXITED or existing.labels[FINGERPRINT_LABEL] != spec.spec_hash:
            self.remove(existing.id, grace=timedelta(0))
            return None
        if existing.status is Status.RUNNING:
            return existing
        try:  # left by a crash, or a race with another worker that is about to start it: starting is idempotent
            return self._start(existing.id, spec, existing.labels)
        except _NetworkRemoved:
            return None

    def _start(self, container: str, spec: ContainerSpec, labels: Mapping[str, str]) -> Container:
        started_at = datetime.now(UTC)
        try:
            self._calls.grant_secrets(container, spec)
            self._calls.start(container)
        except EngineRefused as refused:
            self._roll_back(container)
            if _NETWORK_GONE.search(str(refused)):
                raise _NetworkRemoved from refused
            raise _start_failure(refused, spec=spec, host=self._host) from refused
        except (DockerUnavailable, SecretUnsafe):
            self._roll_back(container)
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

    def _verify(self, container: Container, spec: ContainerSpec) -> None:
        expected = [SeenMount(each.source, each.target, each.identity) for each in spec.mounts if each.identity]
        started = self._calls.find(container.id) if expected else None
        if started is None or started.pid is None:
            return
        try:
            verify_mounts(expected, pid=started.pid, host=self._host)
        except ModelPathChanged:
            self._roll_back(container.id)
            raise

    def _roll_back(self, container: str) -> None:
        # If the engine is unavailable the container stays, with its name and fingerprint: the next start replaces it.
        with suppress(DockerUnavailable, EngineRefused):
            self.remove(container, grace=timedelta(0))

    def _vanishes(self, name: str) -> bool:
        """Whether a concurrent removal completes before its timeout."""
        container = self._calls.find(name)
        deadline = time.monotonic() + REMOVAL_TIMEOUT.total_seconds()
        while container is not None and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL.total_seconds())
            container = self._calls.find(container.id)
        return container is None


def _start_failure(refused: EngineRefused, *, spec: ContainerSpec, host: str) -> AimaError:
    words = str(refused.facts["detail"])
    if any(sign in words.lower() for sign in _PORT_TAKEN):
        return PortTaken(port=spec.host_port, host=host, holder="another container or program")
    if spec.gpus is not None and any(sign in words.lower() for sign in _NO_GPU):
        return GpuUnavailable(host=host, detail=words)
    return engine_refused(words)
