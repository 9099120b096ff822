"""Log history: requests the lines up to now from an instance's worker, with a timeout.

If the worker or the container is unavailable, the last lines stored in Redis are returned with a note of why.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from aima_api.logs.channel import LogChannelClient
from aima_core.domain.hosts import Host
from aima_core.domain.ids import AnswerId, HostName, InstanceId
from aima_core.domain.services import Instance
from aima_core.errors import UnknownHost
from aima_core.logs.dedup import LineDeduplicator
from aima_core.logs.protocol import LogCursor, LogEnd, LogLine, LogRequest
from aima_core.store.hosts import HostStore
from aima_core.store.services import ServiceStore

ANSWER_TIMEOUT = timedelta(seconds=4)
CONCURRENT_ANSWERS = 32
"""Each blocks a connection."""


@dataclass(frozen=True)
class LogExcerpt:
    lines: tuple[LogLine, ...]
    notes: tuple[str, ...]
    cursor: LogCursor
    """Published lines continue the page from here. Without a run if the host has not answered."""


class LogHistory:
    """Every method may raise BrokerUnavailable."""

    def __init__(self, channel: LogChannelClient, services: ServiceStore, hosts: HostStore) -> None:
        self._channel = channel
        self._services = services
        self._hosts = hosts
        self._answers = asyncio.Semaphore(CONCURRENT_ANSWERS)
        self._threads = CapacityLimiter(8)  # so that followers of a frozen Redis leave threads to requests

    async def instance(self, id: InstanceId) -> Instance | None:
        return await run_sync(self._services.instance, id, limiter=self._threads)

    async def host(self, name: HostName) -> Host | None:
        with suppress(UnknownHost):
            return await run_sync(self._hosts.get, name, limiter=self._threads)
        return None

    async def read(self, request: LogRequest) -> LogExcerpt:
        """The lines that are requested; of an instance that cannot be read, its last lines and a note of why."""
        name = request.instance.host
        host = await self.host(name)
        if host is None or not host.live:
            return await self._last_lines(request, reason=absence(name, host))
        answer = await self._answer(request)
        if answer is None:
            return await self._last_lines(request, reason=f"{name} does not answer.")
        lines, left_out, end = answer
        if end.error is not None or not end.found:
            reason = end.error or f"There is no container of {request.instance.service} on {name} now."
            return await self._last_lines(request, reason=reason, cursor=end.cursor)
        notes = (f"{left_out} lines before these exceed the size limit and are left out.",) if left_out else ()
        return LogExcerpt(tuple(lines), notes, end.cursor or _cursor_after(request, lines))

    async def _answer(self, request: LogRequest) -> tuple[list[LogLine], int, LogEnd] | None:
        """The lines, how many before them were left out, and the end; None on timeout."""
        id, lines, left_out = AnswerId.new(), list[LogLine](), 0
        async with self._answers:
            await self._channel.send(request.model_copy(update={"answer": id}))
            async for chunk in self._channel.answer(id, within=ANSWER_TIMEOUT):
                lines += chunk.lines
                left_out += chunk.left_out
                if chunk.end is not None:
                    return lines, left_out, chunk.end
        return None

    async def _last_lines(self, request: LogRequest, *, reason: str, cursor: LogCursor | None = None) -> LogExcerpt:
        stored, origin = await self._stored_lines(request.instance)
        after = LineDeduplicator(request.after.position if request.after else None)
        lines = [line for line in stored if after.is_new(line.stream, line.at)]
        lines = [line for line in lines if request.since is None or line.at >= request.since]
        lines = lines[max(len(lines) - request.tail, 0) :]
        note = f"{reason} These are its last lines, {origin}." if stored else f"{reason} No lines of it are stored."
        return LogExcerpt(tuple(lines), (note,), cursor or LogCursor(position=after.position))

    async def _stored_lines(self, id: InstanceId) -> tuple[list[LogLine], str]:
        """The lines stored while it ran, else those of its failure; and when they were stored."""
        if (stored := await self._channel.last_lines(id)) is not None:
            return list(stored.lines), f"stored at {_clock_time(stored.at)}"
        instance = await self.instance(id)
        if instance is None or instance.failure is None:
            return [], ""
        lines = [LogLine(at=instance.since, stream="stdout", text=text) for text in instance.failure.log_tail]
        return lines, f"from before it failed at {_clock_time(instance.since)}"


def absence(name: HostName, host: Host | None) -> str:
    if host is None or host.seen_at.timestamp() <= 0:
        return f"{name} is away."
    return f"{name} is away; its last heartbeat was at {_clock_time(host.seen_at)}."


def _cursor_after(request: LogRequest, lines: list[LogLine]) -> LogCursor:
    read = LineDeduplicator()
    for line in lines:
        read.is_new(line.stream, line.at)
    return LogCursor(position={**(request.after.position if request.after else {}), **read.position})


def _clock_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
