"""The event streams that a node has open: how many there may be, and for how long a reader may take nothing.

A reader costs little. A crowd that never leaves, or one that has stopped reading without leaving, costs all the same.
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

TAKES_WITHIN = timedelta(minutes=1)
"""What a reader has not taken after so long, with all that the network holds for it, it will not take any more."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_log = structlog.get_logger()


class EventStream(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], *, ended: Callable[[], None]) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._frames = frames
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(TAKES_WITHIN.total_seconds()):
                await send(message)

        try:
            async with aclosing(self._frames):
                await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            _log.warning("cut off a reader that takes nothing", path=scope["path"])
        finally:
            self._ended()


class OpenStreams:
    def __init__(self, *, most: int) -> None:
        self._most = most
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def stream(self, frames: AsyncGenerator[bytes, None]) -> EventStream:
        """An answer that counts until it has ended. Raises TooManyStreams."""
        if self._open >= self._most:
            raise TooManyStreams(most=self._most)
        self._open += 1
        return EventStream(frames, ended=self._one_less)

    def _one_less(self) -> None:
        self._open -= 1
