"""Server-sent events: the one encoder, the response that carries them, and the limit on open streams.

Open streams are a quota per API node. A client that reads nothing until SEND_TIMEOUT expires is disconnected, so that a
stalled one does not use up the quota.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import timedelta

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from aima_core.errors import TooManyStreams

SEND_TIMEOUT = timedelta(minutes=1)
HEARTBEAT_INTERVAL = timedelta(seconds=15)
HEARTBEAT_FRAME = b": \n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_log = structlog.get_logger()


def sse_frame(event: str, data: str, *, id: str = "") -> bytes:
    """`data` is JSON on one line."""
    lines = [f"event: {event}", f"data: {data}", *([f"id: {id}"] if id else []), "", ""]
    return "\n".join(lines).encode()


class EventStream(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes, None], *, on_end: Callable[[], None], send_timeout: timedelta
    ) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._frames = frames
        self._on_end = on_end
        self._send_timeout = send_timeout.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._send_timeout):
                await send(message)

        try:
            async with aclosing(self._frames):
                await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            _log.warning("stalled event stream closed", path=scope["path"])
        finally:
            self._on_end()


class OpenStreams:
    def __init__(self, *, most: int, send_timeout: timedelta = SEND_TIMEOUT) -> None:
        self._most = most
        self._send_timeout = send_timeout
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def stream(self, frames: AsyncGenerator[bytes, None]) -> EventStream:
        """A response that counts as open until it ends. Raises TooManyStreams."""
        if self._open >= self._most:
            raise TooManyStreams(most=self._most)
        self._open += 1
        return EventStream(frames, on_end=self._close_one, send_timeout=self._send_timeout)

    def _close_one(self) -> None:
        self._open -= 1
