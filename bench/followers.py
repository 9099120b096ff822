"""A thousand followers of one operation in a separate process, with little cost of their own."""

from __future__ import annotations

import asyncio
import resource
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.elsewhere import EVENT, Elsewhere, elsewhere, request_for

CONNECTS_AT_ONCE = 100
Arrivals = dict[int, "array[float]"]
"""Arrival times at each follower by event number, by `time.perf_counter`."""


@contextmanager
def followers(url: str, count: int) -> Iterator[Elsewhere]:
    """Connects them; they report their Arrivals once all have received the operation's end."""
    with elsewhere(_follow, url, count) as reported:
        yield reported


# Within the process ------------------------------------------------------------------------------------------------


class _Follower(asyncio.Protocol):
    def __init__(self, request: bytes, received: Arrivals, over: asyncio.Queue[None]) -> None:
        self._request = request
        self._heard = received
        self._over = over
        self._rest = b""
        self.began = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(EVENT):
                self._heard.setdefault(int(line[len(EVENT) :]), array("d")).append(now)
                self.began.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the base class names it
        self._over.put_nowait(None)


def _follow(reported: Connection, url: str, count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reported.send(uvloop.run(_listen(url, count, reported)))


async def _listen(url: str, count: int, reported: Connection) -> Arrivals:
    address = urlsplit(url)
    request = request_for(url)
    received: Arrivals = {}
    over: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for _ in range(0, count, CONNECTS_AT_ONCE):
        made = [
            await loop.create_connection(lambda: _Follower(request, received, over), address.hostname, address.port)
            for _ in range(min(CONNECTS_AT_ONCE, count))
        ]
        await asyncio.gather(*(follower.began.wait() for _, follower in made))
    reported.send("connected")
    for _ in range(count):
        await over.get()
    return received
