"""Answers what API nodes ask about log lines, over Redis, since they may have no way to this host.

Idle, it waits on one list; Redis may be away for as long as it likes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event as Flag
from threading import Thread

import structlog

from aima_core.domain.ids import AnswerId
from aima_core.errors import AimaError, BrokerUnavailable
from aima_core.logs.protocol import Line, LogChunk, LogCursor, LogEnd, LogRequest
from aima_worker.context import HostContext
from aima_worker.logs.channel import LogChannel, NotUnderstood
from aima_worker.logs.collector import ENDS_WITHIN, LogCollector
from aima_worker.runtime import LogLine

WAITS = timedelta(seconds=20)
LONGEST_ANSWER = WAITS + timedelta(seconds=5)
"""What the line that waits must allow for."""
READERS = 4
"""Answers under way at once."""
STALE_SECONDS = 4.0
"""Whoever asked has given up by then."""
MOST_BYTES = 8 << 20
"""Of one answer: the newest lines count."""
LINES_IN_PIECE = 500
RECONNECT_SECONDS = 1.0

_log = structlog.get_logger()


class LogServer:
    def __init__(self, host: HostContext, tails: LogCollector, *, asked: LogChannel, told: LogChannel) -> None:
        """`asked` is a line of its own, whose commands may wait for LONGEST_ANSWER."""
        self._host = host
        self._tails = tails
        self._asked = asked
        self._told = told
        self._over = Flag()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="log answer")
        self._listener = Thread(target=self._listen, name="log server", daemon=True)

    def start(self) -> None:
        self._tails.start()
        self._listener.start()

    def stop(self) -> None:
        """Put down what was read last, and let everything go."""
        self._over.set()
        self._tails.stop()
        try:
            self._told.wake(self._host.name)
        except BrokerUnavailable as away:
            _log.info("ended while Redis is away", why=str(away))
        self._listener.join(ENDS_WITHIN.total_seconds())
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                if (ask := self._asked.next_ask(self._host.name, within=WAITS)) is not None:
                    self._take(ask)
            except NotUnderstood as wrong:
                if not self._over.is_set():
                    _log.warning("question not understood", why=str(wrong))
            except BrokerUnavailable as away:
                _log.warning("nobody can ask for log lines", why=str(away))
                self._over.wait(RECONNECT_SECONDS)
            except Exception:  # noqa: BLE001 the boundary of the thread: one question must not be the last
                _log.exception("a question failed")
                self._over.wait(RECONNECT_SECONDS)

    def _take(self, ask: LogRequest) -> None:
        if ask.instance.host != self._host.name:
            return
        # Before anything is read: what is published then joins what is read without a gap.
        goes_on = self._tails.follow(ask.instance) if ask.follow else None
        if ask.answer is not None:
            self._readers.submit(self._answer, ask.answer, ask, goes_on, time.monotonic())

    def _answer(self, id: AnswerId, ask: LogRequest, goes_on: LogCursor | None, asked_at: float) -> None:
        if time.monotonic() - asked_at > STALE_SECONDS:
            return
        try:
            self._told.answer(id, LogChunk())  # it may take a while: whoever asked shall know that somebody is at it
            if ask.follow:
                self._tails.ensure_tailed(ask.instance)
            for piece in self._pieces(ask, goes_on):
                self._told.answer(id, piece)
        except BrokerUnavailable as away:
            _log.warning("question not answered", why=str(away))

    def _pieces(self, ask: LogRequest, goes_on: LogCursor | None) -> Iterable[LogChunk]:
        try:
            found = self._host.runtime.find(self._host.container_name(ask.instance.service)) is not None
            lines, left_out = self._read(ask) if found else ([], 0)
        except AimaError as failed:
            yield LogChunk(end=LogEnd(trouble=str(failed), goes_on=goes_on))
            return
        for start in range(0, len(lines), LINES_IN_PIECE):
            yield LogChunk(lines=tuple(lines[start : start + LINES_IN_PIECE]), left_out=left_out if start == 0 else 0)
        yield LogChunk(end=LogEnd(found=found, goes_on=goes_on))

    def _read(self, ask: LogRequest) -> tuple[list[Line], int]:
        """The lines, and how many before them would have been too much."""
        taken: deque[LogLine] = deque()
        size = left_out = 0
        name = self._host.container_name(ask.instance.service)
        with self._host.runtime.logs(name, follow=False, tail=ask.tail, since=ask.since) as lines:
            for line in lines:
                taken.append(line)
                size += len(line.text)
                while size > MOST_BYTES:
                    size -= len(taken.popleft().text)
                    left_out += 1
        return [Line(at=line.at, stream=line.stream, text=line.text) for line in taken], left_out
