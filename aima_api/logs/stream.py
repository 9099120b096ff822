"""Log streams as server-sent events: the lines of some instances, read once or followed until the instances are gone.

A follower gets each line once, across restarts of the container, the worker and Redis: it compares the number of each
batch with its cursor, drops stale ones, and requests the lines of a gap from the worker.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from aima_api.http.sse import HEARTBEAT_FRAME, HEARTBEAT_INTERVAL, sse_frame
from aima_api.logs.fanout import EncodedBatch, HostLine, LogFanout, LogSubscription, host_line, line_frames
from aima_api.logs.history import LogHistory, absence
from aima_core.domain.ids import HostName, InstanceId
from aima_core.domain.services import Instance, InstanceState
from aima_core.errors import BrokerUnavailable, CorruptData
from aima_core.logs.dedup import INTERLEAVING, LineDeduplicator
from aima_core.logs.protocol import MAX_TAIL, LogBatch, LogCursor, LogRequest

CHECK_INTERVAL = timedelta(seconds=2)
"""Between two reads of the records of the instance and its host."""
LINGER = timedelta(seconds=1)
"""Wait for the last lines after the record shows the end."""
RECORD_GRACE = timedelta(seconds=20)
"""A record may be lost with Redis' data: the host stores it again within 15 s."""
FRAME_QUEUE = 16
_ENDED = {InstanceState.STOPPED: "is stopped", InstanceState.FAILED: "has failed"}


class LogStreams:
    def __init__(
        self,
        fanout: LogFanout,
        history: LogHistory,
        *,
        linger: timedelta = LINGER,
        record_grace: timedelta = RECORD_GRACE,
    ) -> None:
        self.fanout = fanout
        self._history = history
        self._follower = partial(InstanceFollower, history=history, linger=linger, record_grace=record_grace)

    async def read(self, requests: Sequence[LogRequest]) -> tuple[list[HostLine], list[str]]:
        """The lines up to now in order of time, and notes. Raises BrokerUnavailable."""
        pages = await asyncio.gather(*map(self._history.read, requests))
        lines = [
            host_line(request.instance.host, line)
            for request, page in zip(requests, pages, strict=True)
            for line in page.lines
        ]
        return sorted(lines, key=lambda line: line.at), [note for page in pages for note in page.notes]

    async def stream(self, requests: Sequence[LogRequest]) -> AsyncGenerator[bytes, None]:
        """The lines up to now; of requests to follow, also later ones until the instance is gone."""
        frames: asyncio.Queue[bytes | None] = asyncio.Queue(FRAME_QUEUE)
        writers = [asyncio.create_task(self._write(request, frames)) for request in requests]
        left = len(writers)
        try:
            while left:
                try:
                    async with asyncio.timeout(HEARTBEAT_INTERVAL.total_seconds()):
                        frame = await frames.get()
                except TimeoutError:
                    frame = HEARTBEAT_FRAME
                left -= frame is None
                if frame:
                    yield frame
            yield sse_frame("end", "{}")
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)

    async def _write(self, request: LogRequest, frames: asyncio.Queue[bytes | None]) -> None:
        """Queues all frames of one instance, then None."""
        follower = self._follower(request.instance)
        try:
            if request.follow:
                with self.fanout.subscribed(request.instance) as subscription:
                    async for frame in follower.frames(request, subscription):
                        if frame:  # an empty one would postpone the heartbeat
                            await frames.put(frame)
            else:
                await frames.put(await follower.read(request))
        except (BrokerUnavailable, CorruptData) as unavailable:
            await frames.put(_note_frame(request.instance.host, str(unavailable)))
        await frames.put(None)


@dataclass
class InstanceFollower:
    """One client's view of one instance."""

    id: InstanceId
    history: LogHistory
    linger: timedelta = LINGER
    record_grace: timedelta = RECORD_GRACE
    _cursor: LogCursor = field(init=False, default_factory=lambda: _cursor_at(datetime.now(UTC) - INTERLEAVING))
    """All lines before it were sent."""
    _previous_runs: set[str] = field(init=False, default_factory=set)
    _ended: bool = field(init=False, default=False)
    _live: bool = field(init=False, default=True)
    _checked_at: float = field(init=False, default=0.0)
    _unknown_since: float | None = field(init=False, default=None)

    async def read(self, request: LogRequest) -> bytes:
        """Frames of the lines up to now. Moves the cursor."""
        page = await self.history.read(request)
        if page.cursor.run or page.cursor.position:
            self._cursor = page.cursor
        return b"".join(self._note(note) for note in page.notes) + line_frames(self.id.host, page.lines)

    async def frames(self, request: LogRequest, subscription: LogSubscription) -> AsyncIterator[bytes]:
        yield await self.read(request)
        ended = None
        while not subscription.closed:
            await subscription.wait(self.linger if ended else CHECK_INTERVAL)
            missed, batches = subscription.take()
            for encoded in batches:
                yield await self._take(encoded, missed=missed)
            if ended and not batches:
                yield self._note(ended)
                return
            if time.monotonic() - self._checked_at >= CHECK_INTERVAL.total_seconds():
                self._checked_at = time.monotonic()
                ended, news = await self._check()
                yield self._note(news) if news else b""

    async def _take(self, encoded: EncodedBatch, *, missed: bool) -> bytes:
        batch = encoded.batch
        frames = await self._bridge(batch, missed=missed)
        number = self._cursor.next
        if batch.run != self._cursor.run or batch.next < number:
            return frames  # stale: of a previous worker, or read from the host concurrently
        if left_out := batch.left_out_after(number):
            frames += self._note(f"{left_out} lines were left out: they came too fast to publish.")
        if batch.skipped and batch.next > number:
            frames += self._note(f"The lines of {batch.skipped:.0f} s were left out: they came too fast to read.")
        lines = batch.lines_after(number)
        frames += encoded.frames if len(lines) == len(batch.lines) else line_frames(self.id.host, lines)
        if batch.ended and not self._ended:
            frames += self._note(f"The container of {self.id} has ended.")
        self._ended = batch.ended
        self._cursor = batch.cursor
        return frames

    async def _bridge(self, batch: LogBatch, *, missed: bool) -> bytes:
        """The lines between the cursor and the batch, if any."""
        if batch.run == self._cursor.run:
            gap = batch.first - self._cursor.next
            if gap <= 0:
                return b""
            if missed:  # reading the lines again would put a slow client even further behind
                return self._note(f"{gap} lines were missed: this client reads too slowly.")
        elif batch.run in self._previous_runs:
            return b""
        self._previous_runs |= {self._cursor.run, batch.run}
        frames = await self.read(LogRequest(instance=self.id, tail=MAX_TAIL, after=self._cursor, follow=True))
        if not self._cursor.run:  # the host has not answered
            self._cursor = self._cursor.model_copy(update={"run": batch.run, "next": batch.first})
        self._previous_runs.discard(self._cursor.run)
        return frames

    async def _check(self) -> tuple[str | None, str | None]:
        """Why no line can follow any more, and a change of the host's state; None where there is none."""
        try:
            instance, host = await self.history.instance(self.id), await self.history.host(self.id.host)
        except (BrokerUnavailable, CorruptData):
            return None, None
        was_live, self._live = self._live, host is not None and host.live
        if was_live == self._live:
            return self._why_ended(instance), None
        news = f"{self.id.host} is back." if self._live else f"{absence(self.id.host, host)} Waiting for it."
        return self._why_ended(instance), news

    def _why_ended(self, instance: Instance | None) -> str | None:
        if instance is None:
            self._unknown_since = self._unknown_since or time.monotonic()
            gone = time.monotonic() - self._unknown_since >= self.record_grace.total_seconds()
            return f"{self.id.service} is no longer on {self.id.host}." if gone else None
        self._unknown_since = None
        return f"{self.id} {_ENDED[instance.state]}." if instance.state in _ENDED else None

    def _note(self, text: str) -> bytes:
        return _note_frame(self.id.host, text)


def _cursor_at(moment: datetime) -> LogCursor:
    return LogCursor(position=LineDeduplicator.starting_at(moment).position)


def _note_frame(host: HostName, text: str) -> bytes:
    return sse_frame("note", json.dumps({"host": host, "text": text}))
