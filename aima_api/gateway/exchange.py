"""One request of a client from its arrival to the end of its answer: its deadlines, and its counts.

A client that leaves and a timeout both cancel the request's task, which closes the connection to the engine wherever it
is blocked. One sweep over all requests polls their deadlines, so that a part of a stream costs no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import StrEnum
from math import inf
from typing import Any

import structlog

from aima_api.access.keys import CONFIRM_INTERVAL, ApiKey
from aima_api.gateway.balancer import Backend
from aima_api.gateway.errors import Headers
from aima_api.gateway.requests import ModelRequest
from aima_api.gateway.streams import Usage
from aima_api.http.callers import KeyLookup
from aima_core.errors import AimaError, Unauthorized

Send = Callable[[dict[str, Any]], Awaitable[None]]
Write = Callable[[bytes], bool]
"""As `ClientConnection.write_part`."""
Watch = Callable[[Callable[[], None] | None], None]
"""As `ClientConnection.watch`."""
SWEEP_INTERVAL = timedelta(milliseconds=250)

_log = structlog.get_logger()


class Interrupt(StrEnum):
    """Why a request is ended from outside; the limits are named as their settings are."""

    LEFT = "left"
    FIRST_BYTE = "first_byte"
    ANSWER = "answer"
    SILENCE = "silence"
    REVOKED = "revoked"


class Exchange:
    __slots__ = (
        "_task",
        "backend",
        "began",
        "deadline",
        "digest",
        "done",
        "first_byte_at",
        "id",
        "interrupted",
        "key",
        "limit",
        "outcome",
        "passed",
        "request",
        "returned",
        "send",
        "sends_events",
        "started",
        "status",
        "usage",
        "write",
    )

    def __init__(
        self,
        id: str,
        request: ModelRequest,
        *,
        key: ApiKey,
        digest: str | None,
        passed: Headers,
        returned: Headers,
        send: Send,
        write: Write,
        began: float,
    ) -> None:
        self.id = id
        self.request = request
        self.key = key
        self.digest = digest
        self.passed = passed
        """Headers that the engine gets."""
        self.returned = returned
        """Headers of the answer that come from the request."""
        self.send = send
        self.write = write
        self.began = began
        self.deadline = inf
        self.limit = Interrupt.ANSWER
        self.interrupted: Interrupt | None = None
        self.done = False
        self.started = False
        """The first byte was sent to the client."""
        self.sends_events = False
        self.status = 499
        self.outcome = "left"
        self.backend: Backend | None = None
        self.first_byte_at: float | None = None
        self.usage = Usage()
        self._task = asyncio.current_task()

    def allow(self, until: float, limit: Interrupt) -> None:
        self.deadline, self.limit = until, limit

    def interrupt(self, why: Interrupt) -> None:
        """Cancels what the request waits for; does nothing once its answer is complete."""
        if not self.done and self.interrupted is None and self._task is not None:
            self.interrupted = why
            self._task.cancel()

    def resume(self) -> None:
        """After the cancellation was caught: the task answers the client."""
        if self._task is not None:
            self._task.uncancel()

    async def start(self, status: int, headers: Headers) -> None:
        self.started, self.status = True, status
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *self.returned]})

    async def flush(self) -> None:
        """Waits until the client reads on."""
        await self.send({"type": "http.response.body", "body": b"", "more_body": True})

    async def finish(self, body: bytes = b"") -> None:
        """Sends the last part of the answer."""
        self.done = True
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.finish(body)


class Exchanges:
    """All requests in progress."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._open: set[Exchange] = set()
        self._clock = clock

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, exchange: Exchange, watch: Watch) -> None:
        """Interrupts the request if its client leaves or a limit passes, until `end`."""
        self._open.add(exchange)
        watch(lambda: exchange.interrupt(Interrupt.LEFT))

    def end(self, exchange: Exchange, watch: Watch) -> None:
        exchange.done = True
        self._open.discard(exchange)
        watch(None)

    async def sweep(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL.total_seconds())
            now = self._clock()
            for exchange in [each for each in self._open if each.deadline < now]:
                exchange.interrupt(exchange.limit)

    async def watch_keys(self, keys: KeyLookup) -> None:
        """Until cancelled: interrupts the requests of a key that was revoked."""
        while True:
            await asyncio.sleep(CONFIRM_INTERVAL.total_seconds())
            for digest in {each.digest for each in self._open if each.digest is not None}:
                try:
                    await keys.confirm(digest)
                except Unauthorized:
                    for exchange in [each for each in self._open if each.digest == digest]:
                        exchange.interrupt(Interrupt.REVOKED)
                except AimaError as unknown:
                    _log.warning("key not confirmed", reason=str(unknown))
