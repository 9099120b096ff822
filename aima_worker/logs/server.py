"""The log server: answers log requests of API nodes over Redis, since they may have no network path to this host.

It blocks on the host's request list. While Redis is unavailable it retries; a request that fails is logged.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import structlog

from aima_core.domain.ids import AnswerId
from aima_core.errors import AimaError, BrokerUnavailable, CorruptData
from aima_core.logs.dedup import LineDeduplicator
from aima_core.logs.protocol import LogChunk, LogCursor, LogEnd, LogLine, LogRequest
from aima_core.system.background import BackgroundLoop
from aima_worker.context import HostContext
from aima_worker.logs.channel import LogChannel
from aima_worker.logs.collector import RETRY_DELAY, STOP_TIMEOUT, LogCollector

REQUEST_TIMEOUT = timedelta(seconds=20)
BLOCKING_TIMEOUT = REQUEST_TIMEOUT + timedelta(seconds=5)
"""The answer timeout that the blocking connection needs."""
READERS = 4
"""Concurrent answers."""
REQUEST_TTL = timedelta(seconds=4)
"""The API node no longer waits for an older request."""
ANSWER_SIZE = 8 << 20
"""Characters; the newest lines are kept."""
CHUNK_LINES = 500

_log = structlog.get_logger()


class LogServer:
    def __init__(
        self, host: HostContext, collector: LogCollector, *, requests: LogChannel, answers: LogChannel
    ) -> None:
        """`requests` needs a connection of its own whose commands may take BLOCKING_TIMEOUT."""
        self._host = host
        self._collector = collector
        self._requests = requests
        self._answers = answers
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="log answer")
        self._loop = BackgroundLoop("log server", self._serve_next, interval=timedelta(), retry_delay=RETRY_DELAY)

    def start(self) -> None:
        self._collector.start()
        self._loop.start()

    def stop(self) -> None:
        """Stores the lines read last, if Redis is available."""
        self._loop.stop()
        try:
            self._collector.stop()
            self._answers.wake(self._host.name)
        except (BrokerUnavailable, CorruptData) as unavailable:
            _log.warning("last lines not stored", reason=str(unavailable))
        self._loop.stop(within=STOP_TIMEOUT)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _serve_next(self) -> None:
        request = self._requests.next_request(self._host.name, within=REQUEST_TIMEOUT)
        if request is None or request.instance.host != self._host.name:
            return
        if request.follow:
            self._collector.follow(request.instance)
        if request.answer is not None:
            self._readers.submit(self._answer, request.answer, request, time.monotonic())

    def _answer(self, id: AnswerId, request: LogRequest, requested_at: float) -> None:
        if time.monotonic() - requested_at > REQUEST_TTL.total_seconds():
            return
        try:
            self._answers.answer(id, LogChunk())  # reading may take a while: the API node must not time out
            for chunk in self._chunks(request):
                self._answers.answer(id, chunk)
        except (BrokerUnavailable, CorruptData) as unavailable:
            _log.warning("log request not answered", reason=str(unavailable))
        except Exception:  # noqa: BLE001 the error boundary of the thread: its pool would swallow the reason
            _log.exception("log request not answered", instance=request.instance)

    def _chunks(self, request: LogRequest) -> Iterator[LogChunk]:
        cursor = self._collector.join(request.instance) if request.follow else None
        name = self._host.container_name(request.instance.service)
        try:
            found = self._host.runtime.find(name) is not None
            lines, left_out = self._read(name, request, cursor) if found else ([], 0)
        except AimaError as failed:
            yield LogChunk(end=LogEnd(error=str(failed), cursor=cursor))
            return
        for start in range(0, len(lines), CHUNK_LINES):
            yield LogChunk(lines=tuple(lines[start : start + CHUNK_LINES]), left_out=0 if start else left_out)
        yield LogChunk(end=LogEnd(found=found, cursor=cursor))

    def _read(self, name: str, request: LogRequest, cursor: LogCursor | None) -> tuple[list[LogLine], int]:
        """The requested lines up to the cursor, and how many older ones exceeded the size limit."""
        after = LineDeduplicator(request.after.position) if request.after else None
        until = LineDeduplicator(cursor.position) if cursor else None
        since = request.since if after is None else after.since or request.since
        lines: deque[LogLine] = deque()
        size = left_out = 0
        with self._host.runtime.logs(name, follow=False, tail=request.tail, since=since) as log:
            for line in log:
                if after is not None and not after.is_new(line.stream, line.at):
                    continue
                if until is not None and until.is_new(line.stream, line.at):
                    continue  # it is published
                lines.append(line)
                size += len(line.text)
                while size > ANSWER_SIZE:
                    size -= len(lines.popleft().text)
                    left_out += 1
        return list(lines), left_out
