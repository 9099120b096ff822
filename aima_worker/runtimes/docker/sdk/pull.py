"""The messages of one pull, from the engine's own stream, and what the registry has to be told for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from docker import auth
from docker.errors import DockerException

from aima_core.errors import ImageNotFound, RegistryDenied
from aima_worker.runtimes.docker.image_reference import ImageName, image_name
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.stream import EngineStream


class EnginePull:
    """PullMessages of the engine's API."""

    def __init__(self, engine: EngineClient, image: str) -> None:
        name = _named(image)
        self._stream = EngineStream(
            engine,
            "POST",
            "/images/create",
            # The engine pulls for its own platform unless told otherwise.
            params={"fromImage": name.repository, "tag": name.version},
            headers=_credentials(image, name.registry),
        )

    @property
    def closed(self) -> bool:
        return self._stream.closed

    def read(self, *, patience: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        self._stream.open(within=patience())
        rest = b""
        while chunk := self._stream.next(within=patience()):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())

    def close(self) -> None:
        self._stream.close()


def _named(image: str) -> ImageName:
    try:
        return image_name(image)
    except ValueError as bad:
        raise ImageNotFound(image=image, detail=str(bad)) from bad


def _credentials(image: str, registry: str) -> dict[str, str]:
    """From Docker's own configuration and its helpers, read anew: a `docker login` counts from the next pull on."""
    try:
        found = auth.load_config().resolve_authconfig(registry)
    except DockerException as failed:
        raise RegistryDenied(
            image=image, detail=f"the host's credentials for it could not be read: {failed}"
        ) from failed
    return {"X-Registry-Auth": auth.encode_header(found).decode()} if found else {}
