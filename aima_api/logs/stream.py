"""The lines of some instances as a reader gets them: once, or as server-sent events for as long as they are said.

`line` brings a line, `note` a sentence on what is missing or happens to the source, `end` that no more will come. A
follower is told everything once, across restarts of the container and of the host's worker, since each place where
the line may have broken is bridged by what the host read before.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from fastapi.sse import format_sse_event

from aima_api.logs.fanout import Heard, HostLine, LogFanout, LogSubscription, line_frame
from aima_api.logs.history import LogHistory, Past, away
from aima_core.domain.ids import HostName, InstanceId
from aima_core.domain.services import InstanceState
from aima_core.errors import BrokerUnavailable
from aima_core.logs.dedup import INTERLEAVED, LineDeduplicator
from aima_core.logs.protocol import MOST_TAIL, LogCursor

HEARTBEAT = timedelta(seconds=15)
CHECKS_EVERY = timedelta(seconds=2)
"""How often a follower asks whether the instance and its host are still there."""
LINGERS = timedelta(seconds=1)
"""The last lines may come a little later than the news of the end."""
PUT_BACK_WITHIN = timedelta(seconds=20)
"""A record that has gone may have been lost with Redis' data: the host puts it back within fifteen seconds."""
MOST_FRAMES = 16
"""Written ahead for one follower."""
_OVER = {InstanceState.STOPPED: "is stopped", InstanceState.FAILED: "has failed"}
_BEAT = b": \n\n"


@dataclass(frozen=True)
class Request:
    """What a reader asks for."""

    instances: Sequence[InstanceId]
    tail: int
    since: datetime | None


class LogStreams:
    def __init__(self, feeds: LogFanout, past: LogHistory, *, heartbeat: timedelta = HEARTBEAT) -> None:
        self._feeds = feeds
        self._past = past
        self._heartbeat = heartbeat

    def close(self) -> None:
        """Let every follower end, now and from now on."""
        self._feeds.close()

    @property
    def followed(self) -> int:
        """How many instances are being followed."""
        return self._feeds.followed

    async def end(self) -> None:
        await self._feeds.end()

    async def read(self, request: Request) -> tuple[list[HostLine], list[str]]:
        """What was said until now, in the order of time, and notes. Raises BrokerUnavailable."""
        asked = [
            self._past.of(each, tail=request.tail, since=request.since, follow=False) for each in request.instances
        ]
        found = list(zip(request.instances, await asyncio.gather(*asked), strict=True))
        lines = [HostLine(host=id.host, **line.model_dump()) for id, past in found for line in past.lines]
        return sorted(lines, key=lambda line: line.at), [note for _, past in found for note in past.notes]

    async def stream(self, request: Request, *, follow: bool) -> AsyncGenerator[bytes, None]:
        """The same as events; with `follow`, also what is said from now on, until all instances are gone for good."""
        frames: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_FRAMES)
        writers = [asyncio.create_task(self._write(id, request, frames, follow)) for id in request.instances]
        left = len(writers)
        try:
            while left:
                try:
                    async with asyncio.timeout(self._heartbeat.total_seconds()):
                        frame = await frames.get()
                except TimeoutError:
                    frame = _BEAT
                left -= frame is None
                if frame:
                    yield frame
            yield format_sse_event(data_str="{}", event="end")
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)

    async def _write(self, id: InstanceId, request: Request, frames: asyncio.Queue[bytes | None], follow: bool) -> None:
        """Everything of one instance, then None."""
        try:
            if follow:
                await self._follow(id, request, frames)
            else:
                past = await self._past.of(id, tail=request.tail, since=request.since, follow=False)
                for frame in _told(id.host, past):
                    await frames.put(frame)
        except BrokerUnavailable as lost:
            await frames.put(note_frame(id.host, str(lost)))
        await frames.put(None)

    async def _follow(self, id: InstanceId, request: Request, frames: asyncio.Queue[bytes | None]) -> None:
        with self._feeds.listening(id) as subscription:
            follower = InstanceFollower(id, request, self._past)
            async for frame in follower.frames(subscription):
                await frames.put(frame)


@dataclass
class InstanceFollower:
    """One reader of one instance."""

    id: InstanceId
    request: Request
    past: LogHistory
    _seen: LineDeduplicator = field(default_factory=LineDeduplicator)
    _place: LogCursor | None = None
    """Where the next batch has to begin, for nothing to be missing."""
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _ended: bool = False
    _live: bool = True
    _checked_at: float = 0
    _unknown_since: float | None = None

    async def frames(self, subscription: LogSubscription) -> AsyncIterator[bytes]:
        for frame in await self._join(subscription, tail=self.request.tail, since=self.request.since):
            yield frame
        over = None
        while not subscription.closed:
            heard = await subscription.next(within=LINGERS if over else CHECKS_EVERY)
            if heard is not None:
                async for frame in self._take(heard, subscription):
                    yield frame
            elif over:
                yield note_frame(self.id.host, over)
                return
            if time.monotonic() - self._checked_at >= CHECKS_EVERY.total_seconds():
                self._checked_at = time.monotonic()
                over = await self._over()
                if news := await self._news_of_the_host():
                    yield note_frame(self.id.host, news)

    async def _join(self, subscription: LogSubscription, *, tail: int, since: datetime | None) -> list[bytes]:
        """What was said before, as far as it was not seen; from then on, batches continue it."""
        past = await self.past.of(self.id, tail=tail, since=since, follow=True)
        self._seen.rewind()
        past.lines = [line for line in past.lines if self._seen.is_new(line)]
        self._seen.rewind()
        self._place = past.goes_on
        if self._place is not None:
            subscription.forget_others(self._place.run)
        return list(_told(self.id.host, past))

    async def _take(self, heard: Heard, subscription: LogSubscription) -> AsyncIterator[bytes]:
        batch = heard.batch
        for frame in await self._bridge(heard, subscription):
            yield frame
        old = self._place is not None and batch.next <= self._place.next
        if batch.lines and not old:
            if batch.left_out:
                yield note_frame(self.id.host, f"{batch.left_out} lines came too fast to be told.")
            if batch.skipped:
                yield note_frame(self.id.host, f"What was said for {batch.skipped:.0f} s came too fast to be read.")
            new = [line for line in batch.lines if self._seen.is_new(line)]
            whole = len(new) == len(batch.lines)
            yield heard.frames if whole else b"".join(line_frame(self.id.host, line) for line in new)
        if batch.ended and not self._ended:
            yield note_frame(self.id.host, f"The container of {self.id} has ended.")
        self._ended = batch.ended
        if not old:
            self._place = LogCursor(run=batch.run, next=batch.next)

    async def _bridge(self, heard: Heard, subscription: LogSubscription) -> list[bytes]:
        """What lies between the last batch and this one."""
        batch, place = heard.batch, self._place
        overflowed, subscription.overflowed = subscription.overflowed, False
        if place is not None and batch.run == place.run:
            if batch.first <= place.next:
                return []
            if overflowed:  # to read it all again for a reader that cannot keep up would be for nothing
                missed = f"{batch.first - place.next} lines were missed, for they were not read fast enough."
                return [note_frame(self.id.host, missed)]
        frames = await self._join(subscription, tail=MOST_TAIL, since=self._seen.since or self._began - INTERLEAVED)
        if self._place is None or self._place.run != batch.run:
            self._place = LogCursor(run=batch.run, next=batch.first)
        return frames

    async def _over(self) -> str | None:
        """Why nothing more will come; None while something may."""
        try:
            instance = await self.past.instance(self.id)
        except BrokerUnavailable:
            return None
        if instance is None:
            self._unknown_since = self._unknown_since or time.monotonic()
            gone = time.monotonic() - self._unknown_since >= PUT_BACK_WITHIN.total_seconds()
            return f"{self.id.service} is no longer on {self.id.host}." if gone else None
        self._unknown_since = None
        return f"{self.id} {_OVER[instance.state]}." if instance.state in _OVER else None

    async def _news_of_the_host(self) -> str | None:
        try:
            host = await self.past.host(self.id.host)
        except BrokerUnavailable:
            return None
        was_live, self._live = self._live, host is not None and host.live
        if was_live == self._live:
            return None
        return f"{self.id.host} is back." if self._live else f"{away(self.id.host, host)} Waiting for it."


def note_frame(host: HostName, text: str) -> bytes:
    return format_sse_event(data_str=json.dumps({"host": host, "text": text}), event="note")


def _told(host: HostName, past: Past) -> Iterator[bytes]:
    yield from (note_frame(host, note) for note in past.notes)
    if past.lines:
        yield b"".join(line_frame(host, line) for line in past.lines)
