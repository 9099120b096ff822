"""The frames of one container's log, from the engine's own stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from aima_worker.runtimes.docker.errors import EngineError, engine_refused
from aima_worker.runtimes.docker.logs import Frame, LogWish, StreamName
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.stream import EngineStream

_HEADER = struct.Struct(">BxxxL")
_STREAMS: dict[int, StreamName] = {1: "stdout", 2: "stderr"}


class EngineFrames:
    """LogFrames of the engine's API."""

    def __init__(self, engine: EngineClient, wish: LogWish) -> None:
        self._engine = engine
        self._follow = wish.follow
        self._stream = EngineStream(engine, "GET", f"/containers/{wish.container}/logs", params=_asked(wish))

    def __iter__(self) -> Iterator[Frame]:
        buffer = bytearray()
        for chunk in self._chunks():
            buffer += chunk
            start = 0
            while len(buffer) - start >= _HEADER.size:
                kind, length = _HEADER.unpack_from(buffer, start)
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    break
                at, _, data = bytes(buffer[start + _HEADER.size : end]).partition(b" ")
                yield Frame(_STREAMS.get(kind, "stdout"), at.decode(), data)
                start = end
            del buffer[:start]

    def close(self) -> None:
        self._stream.close()

    def _chunks(self) -> Iterator[bytes]:
        try:
            self._stream.open(within=self._engine.timeout)
            while chunk := self._stream.next(within=None if self._follow else self._engine.timeout):
                yield chunk
        except EngineError as refused:
            if refused.status not in (404, 409):
                raise engine_refused(refused.words) from refused
        except TimeoutError as late:
            raise self._engine.unavailable("its log does not come") from late


def _asked(wish: LogWish) -> dict[str, str]:
    asked = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if wish.follow else "0"}
    if wish.tail is not None:
        asked["tail"] = str(wish.tail)
    if wish.since is not None:
        asked["since"] = wish.since
    return asked
