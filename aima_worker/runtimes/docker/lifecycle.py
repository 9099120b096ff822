"""What every way to a Docker Engine has in common: in which order it is asked, and what follows from its refusals.

Starting takes two calls, create and start; the rest is asked only when one of them is refused. How a call is made is
the implementation's.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from aima_core.errors import DockerUnavailable, EngineRefused
from aima_worker.runtime import Container, ContainerSpec, Status
from aima_worker.runtimes.docker.container_config import FINGERPRINT_LABEL
from aima_worker.runtimes.docker.errors import EngineError, engine_refused, is_being_removed, start_failure

NAME_SECONDS = 15.0
"""That a name may stay taken by what is being made or removed by others."""
POLL_SECONDS = 0.05
REMOVAL_SECONDS = 10.0
"""That another's removal of the same container may take."""


class DockerRuntime(ABC):
    """The half of a ContainerRuntime that decides; the other half calls."""

    def __init__(self, *, host: str) -> None:
        self._host = host

    def run(self, spec: ContainerSpec) -> Container:
        deadline = time.monotonic() + NAME_SECONDS
        while time.monotonic() < deadline:
            if (made := self._create(spec)) is not None:
                return self._begin(made, spec, {**spec.labels, FINGERPRINT_LABEL: spec.spec_hash})
            if (standing := self.find(spec.name)) is None:
                # Its name is taken before it can be seen, and given back after it has gone.
                time.sleep(POLL_SECONDS)
            elif (adopted := self._adopt(standing, spec)) is not None:
                return adopted
        raise engine_refused(f"the name {spec.name} stays taken by a container that cannot be seen")

    def remove(self, name: str, *, grace: timedelta) -> None:
        try:
            self._end(name, grace=grace)
        except EngineError as refused:
            if not (is_being_removed(refused.words) and self._goes_away(name)):
                raise engine_refused(refused.words) from refused

    def registry_architectures(self, image: str) -> frozenset[str]:  # noqa: ARG002 not every way to the engine can ask a registry
        return frozenset()

    @abstractmethod
    def find(self, name: str) -> Container | None: ...

    @abstractmethod
    def _create(self, spec: ContainerSpec) -> str | None:
        """The id of the container made; None if the name is taken. Raises ImageNotFound, EngineRefused."""

    @abstractmethod
    def _start(self, container: str) -> None:
        """Raises Refusal."""

    @abstractmethod
    def _end(self, name: str, *, grace: timedelta) -> None:
        """Stop and delete it; nothing if there is none. Raises Refusal."""

    def _adopt(self, standing: Container, spec: ContainerSpec) -> Container | None:
        """What stands under the name, running; None once it has been cleared away for not being what is wanted."""
        if FINGERPRINT_LABEL not in standing.labels:
            raise engine_refused(f"a container named {spec.name} is there, and is not AIMA's")
        if standing.status is Status.EXITED or standing.labels[FINGERPRINT_LABEL] != spec.spec_hash:
            self.remove(standing.id, grace=timedelta(0))
            return None
        # One that was made and not started may be about to be: starting is the engine's to do once.
        return standing if standing.status is Status.RUNNING else self._begin(standing.id, spec, standing.labels)

    def _begin(self, container: str, spec: ContainerSpec, labels: Mapping[str, str]) -> Container:
        started_at = datetime.now(UTC)
        try:
            self._start(container)
        except EngineError as refused:
            self._clear_away(container)
            raise start_failure(refused.words, spec=spec, host=self._host) from refused
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

    def _goes_away(self, name: str) -> bool:
        """Whether the container vanishes by itself, since somebody else is removing it already."""
        leaving = self.find(name)
        deadline = time.monotonic() + REMOVAL_SECONDS
        while leaving is not None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            leaving = self.find(leaving.id)
        return leaving is None
