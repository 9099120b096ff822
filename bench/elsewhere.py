"""What listens in a process of its own: being woken is part of what is measured, and what it costs is not ours."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import redis

READY_WITHIN_SECONDS = 60
HEARD_WITHIN_SECONDS = 30
EVENT = b"id: "
"""What the line with an event's number begins with; each has one."""


class Elsewhere:
    def __init__(self, told: Connection) -> None:
        self._told = told

    def heard(self) -> Any:
        """The next of what it tells. Raises RuntimeError when it does not come."""
        return self.wait(HEARD_WITHIN_SECONDS)

    def wait(self, seconds: float) -> Any:
        if not self._told.poll(seconds):
            raise RuntimeError(f"nothing was heard within {seconds:g} s")
        return self._told.recv()


@contextmanager
def elsewhere(work: Callable[..., None], *args: Any) -> Iterator[Elsewhere]:
    """A process that does the work, which is given a connection first and says on it when it is ready; felled then."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=work, args=(there, *args), daemon=True)
    process.start()
    try:
        made = Elsewhere(here)
        made.wait(READY_WITHIN_SECONDS)
        yield made
    finally:
        process.kill()
        process.join()


def follow(told: Connection, url: str, already: int) -> None:
    """Tell when each event comes to a follower over HTTP, by `time.perf_counter`, but for those that were there."""
    address = urlsplit(url)
    heard, rest = 0, b""
    with socket.create_connection((str(address.hostname), int(address.port or 80))) as line:
        line.sendall(request_for(url))
        while data := line.recv(1 << 16):
            now = time.perf_counter()
            *lines, rest = (rest + data).split(b"\n")
            for _ in (line for line in lines if line.startswith(EVENT)):
                heard += 1
                if heard >= already:
                    told.send(now)


def request_for(url: str) -> bytes:
    """A GET whose answer ends the connection."""
    address = urlsplit(url)
    return f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode()


def subscribe(told: Connection, redis_url: str, channel: str) -> None:
    """Tell when each message comes to a bare subscriber, and when it has subscribed."""
    with redis.Redis.from_url(redis_url, decode_responses=True).pubsub() as subscription:
        subscription.subscribe(channel)
        for _ in subscription.listen():
            told.send(time.perf_counter())
