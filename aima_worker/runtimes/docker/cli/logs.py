"""The frames of one container's log, from `docker logs`: stdout and stderr come on a pipe each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from aima_core.logs.dedup import StreamName
from aima_worker.runtimes.docker.cli.process_stream import ProgramStream, Said
from aima_worker.runtimes.docker.cli.program import DockerProgram, broke_off
from aima_worker.runtimes.docker.errors import EngineError, engine_refused, is_missing
from aima_worker.runtimes.docker.logs import Frame, LogQuery

PIECE = 16 * 1024
"""Bytes at which the engine cuts a long line; each piece has a time before it, and only the last a line's end."""
TOGETHER = 16
"""Chunks at most that are put in order, and held back for it."""
_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)) ")
_LONGEST_TIME = 40


class ProgramFrames:
    """LogFrames of the program."""

    def __init__(self, docker: DockerProgram, wish: LogQuery) -> None:
        self._docker = docker
        self._follow = wish.follow
        self._stream = ProgramStream(docker, "logs", "--timestamps", *_flags(wish), "--", wish.container)

    def __iter__(self) -> Iterator[Frame]:
        pipes: dict[StreamName, Stamped] = {"stdout": Stamped(), "stderr": Stamped()}
        self._stream.open()
        for batcher in self._chunks():
            frames = [Frame(said.stream, *frame) for said in batcher for frame in pipes[said.stream].feed(said.data)]
            # Two pipes do not tell which was written to first; the engine's times do.
            yield from sorted(frames, key=lambda frame: frame.at)
        for stream, pipe in pipes.items():
            yield from (Frame(stream, *frame) for frame in pipe.end())
        if self._stream.exit_code and not self._stream.closed:
            self._explain(pipes["stderr"].unstamped.decode("utf-8", "replace"))

    def close(self) -> None:
        self._stream.close()

    def _chunks(self) -> Iterator[list[Said]]:
        """What has come by the time it is asked for. Raises DockerUnavailable."""
        patience = None if self._follow else self._docker.timeout.total_seconds()
        try:
            while (first := self._stream.next(within=patience)) is not None:
                yield [first, *self._at_once()]
        except TimeoutError as late:
            raise self._docker.unavailable("its log does not come") from late

    def _at_once(self) -> Iterator[Said]:
        with suppress(TimeoutError):
            for _ in range(TOGETHER - 1):
                if (said := self._stream.next(within=0)) is None:
                    break
                yield said

    def _explain(self, complaint: str) -> None:
        """Raise what the end of the program means, if more than the end of the log or of the line to the engine."""
        failure = self._docker.failure(complaint)
        if isinstance(failure, EngineError):
            if not is_missing(failure.words):
                raise engine_refused(failure.words)
        elif not (self._follow and broke_off(complaint)):
            raise failure


class Stamped:
    """Cuts what comes on one pipe into frames again."""

    def __init__(self) -> None:
        self.unstamped = b""
        """Lines without a time are the program's own."""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        self._rest += data
        start = 0
        while (end := self._end_of_frame(start)) is not None:
            yield from self._frame(self._rest[start:end])
            start = end
        self._rest = self._rest[start:]

    def end(self) -> Iterator[tuple[str, bytes]]:
        """What was left without a line's end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._frame(rest)

    def _end_of_frame(self, start: int) -> int | None:
        """None while it is not there yet."""
        time = _TIME.match(self._rest, start)
        longest = (time.end() if time else start + _LONGEST_TIME) + PIECE
        if (newline := self._rest.find(b"\n", start, longest)) >= 0:
            return newline + 1
        return longest if len(self._rest) >= longest else None

    def _frame(self, frame: bytes) -> Iterator[tuple[str, bytes]]:
        if (time := _TIME.match(frame)) is None:
            self.unstamped = (self.unstamped + frame)[-PIECE:]
        else:
            yield time[1].decode(), frame[time.end() :]


def _flags(wish: LogQuery) -> Iterator[str]:
    if wish.follow:
        yield "--follow"
    if wish.tail is not None:
        yield f"--tail={wish.tail}"
    if wish.since is not None:
        yield f"--since={wish.since}"
