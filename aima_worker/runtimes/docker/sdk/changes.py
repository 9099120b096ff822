"""What happens to containers, as the engine tells it on one long answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from aima_worker.runtimes.docker.errors import EngineError, engine_refused
from aima_worker.runtimes.docker.parsing import container_changed
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.stream import EngineStream


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
