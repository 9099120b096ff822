"""Making and ending containers through the engine's low-level API: the calls behind a start and a stop."""

from __future__ import annotations

import math
from datetime import timedelta

from docker.errors import APIError

from aima_core.errors import EngineRefused, ImageNotFound
from aima_worker.runtime import ContainerSpec
from aima_worker.runtimes.docker.container_config import container_config
from aima_worker.runtimes.docker.errors import EngineError, engine_refused
from aima_worker.runtimes.docker.lifecycle import DockerRuntime
from aima_worker.runtimes.docker.sdk.client import EngineClient


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
