"""The messages of one pull, read from what the `docker` program paints on a terminal.

Without a terminal it tells of no byte, so that neither progress nor a stall could be seen. On one it paints every
message of the engine anew, with sizes of four digits: the sums are as exact as that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aima_worker.runtimes.docker.cli.process_stream import ProgramStream
from aima_worker.runtimes.docker.cli.program import DockerProgram, words_of
from aima_worker.runtimes.docker.errors import EngineError

_BETWEEN = re.compile(rb"[\r\n]|\x1b\[[0-9;]*[A-Za-z]")
"""Line ends, and the moves of the cursor to and from a layer's line."""
_SIZE = r"\d+(?:\.\d+)?(?:e\+\d+)?[kMGTP]?B"
_LAYER = re.compile(
    r"(?P<id>[0-9a-f]{12}): (?P<status>\S.*?)(?:\s+\[[=> ]*\])?"
    rf"(?:\s+(?P<current>{_SIZE})(?:/(?P<total>{_SIZE}))?|\s+(?P<seconds>\d+) s)?\s*"
)
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


class ProgramPull:
    """PullMessages of the program."""

    def __init__(self, docker: DockerProgram, image: str) -> None:
        self._docker = docker
        self._stream = ProgramStream(docker, "pull", "--", image, on_terminal=True)

    @property
    def closed(self) -> bool:
        return self._stream.closed

    def read(self, *, patience: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        self._stream.open()
        painting, complaint = Painting(), b""
        while (said := self._stream.next(within=patience())) is not None:
            if said.stream == "stdout":
                yield from painting.feed(said.data)
            else:
                complaint += said.data
        if self._stream.exit_code and not self.closed:
            self._docker.check()  # its words do not always tell an engine that died from a registry that did
            raise EngineError(words_of(complaint.decode("utf-8", "replace")))

    def close(self) -> None:
        self._stream.close()


class Painting:
    """Turns what is painted back into the engine's messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        *whole, self._rest = _BETWEEN.split(self._rest + data)
        for piece in whole:
            if (message := _message(piece.decode("utf-8", "replace"))) is not None:
                yield message


def _message(painted: str) -> Mapping[str, Any] | None:
    if painted.startswith(("Digest: ", "Status: ")):
        return {"status": painted}
    layer = _LAYER.fullmatch(painted)
    return None if layer is None else {"id": layer["id"], "status": layer["status"], "progressDetail": _detail(layer)}


def _detail(layer: re.Match[str]) -> Mapping[str, Any]:
    if layer["seconds"]:
        return {"current": int(layer["seconds"]), "units": "s"}
    return {part: _bytes(layer[part]) for part in ("current", "total") if layer[part]}


def _bytes(size: str) -> int:
    number = size.rstrip("kMGTPB")
    return round(float(number) * _UNITS[size.removeprefix(number)])
