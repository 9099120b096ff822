"""What an instance has said until now: from its host, or else the last lines that the host has put down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from aima_api.logs.channel import LogChannelClient
from aima_core.domain.hosts import Host
from aima_core.domain.ids import AnswerId, HostName, InstanceId
from aima_core.domain.services import Instance
from aima_core.errors import UnknownHost
from aima_core.logs.protocol import Line, LogCursor, LogEnd, LogRequest
from aima_core.store.hosts import HostStore
from aima_core.store.services import ServiceStore

SILENCE = timedelta(seconds=4)
"""A host that says nothing for so long is not waited for."""
ANSWERS_AT_ONCE = 32
"""Each waits on a connection of its own."""
_T = TypeVar("_T")


@dataclass
class Past:
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    goes_on: LogCursor | None = None
    """Where what the host publishes continues this; None where the host has not answered."""


class LogHistory:
    """Every call may raise BrokerUnavailable."""

    def __init__(self, link: LogChannelClient, services: ServiceStore, hosts: HostStore) -> None:
        self._link = link
        self._services = services
        self._hosts = hosts
        self._waiting = asyncio.Semaphore(ANSWERS_AT_ONCE)
        self._readers = CapacityLimiter(8)  # so that followers of a frozen Redis leave threads to requests

    async def instance(self, id: InstanceId) -> Instance | None:
        return await self._aside(lambda: self._services.instance(id))

    async def host(self, name: HostName) -> Host | None:
        return await self._aside(lambda: self._host(name))

    async def of(self, id: InstanceId, *, tail: int, since: datetime | None, follow: bool) -> Past:
        host = await self.host(id.host)
        if host is None or not host.live:
            return await self._kept(id, tail, since, why=away(id.host, host))
        answer = await self._answer(
            LogRequest(instance=id, answer=AnswerId.new(), tail=tail, since=since, follow=follow)
        )
        if answer is None:
            return await self._kept(id, tail, since, why=f"{id.host} does not answer.")
        lines, left_out, end = answer
        if end.trouble is not None or not end.found:
            why = end.trouble or f"There is no container of {id.service} on {id.host} now."
            return await self._kept(id, tail, since, why=why, goes_on=end.goes_on)
        notes = [f"{left_out} lines before these are left out, for they are too much at once."] if left_out else []
        return Past(lines, notes, end.goes_on)

    async def _answer(self, ask: LogRequest) -> tuple[list[Line], int, LogEnd] | None:
        assert ask.answer is not None
        lines: list[Line] = []
        left_out = 0
        async with self._waiting:
            await self._link.ask(ask)
            async for piece in self._link.answer(ask.answer, silence=SILENCE):
                lines += piece.lines
                left_out += piece.left_out
                if piece.end is not None:
                    return lines, left_out, piece.end
        return None

    async def _kept(
        self, id: InstanceId, tail: int, since: datetime | None, *, why: str, goes_on: LogCursor | None = None
    ) -> Past:
        lines, of_when = await self._last_lines(id)
        if not lines:
            return Past(notes=[f"{why} No line of it was put down."], goes_on=goes_on)
        wanted = [line for line in lines if since is None or line.at >= since]
        return Past(wanted[max(len(wanted) - tail, 0) :], [f"{why} These are its last lines, {of_when}."], goes_on)

    async def _last_lines(self, id: InstanceId) -> tuple[list[Line], str]:
        """The lines put down while it ran, else those that its failure was told with; and of when they are."""
        if (kept := await self._link.last_lines(id)) is not None:
            return list(kept.lines), f"put down at {_clock_time(kept.at)}"
        instance = await self.instance(id)
        if instance is None or instance.failure is None:
            return [], ""
        said = [Line(at=instance.since, stream="stdout", text=text) for text in instance.failure.log_tail]
        return said, f"from before it failed at {_clock_time(instance.since)}"

    def _host(self, name: HostName) -> Host | None:
        try:
            return self._hosts.get(name)
        except UnknownHost:
            return None

    async def _aside(self, call: Callable[[], _T]) -> _T:
        return await run_sync(call, limiter=self._readers)


def away(name: HostName, host: Host | None) -> str:
    if host is None or host.seen_at.timestamp() <= 0:
        return f"{name} is away."
    return f"{name} is away, and was last heard of at {_clock_time(host.seen_at)}."


def _clock_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
