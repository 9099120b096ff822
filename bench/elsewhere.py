"""Subscribers in a separate process: their wake-up is measured, their CPU time is not."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import redis

from aima_core.system.die_with_parent import die_with_parent

READY_WITHIN_SECONDS = 60
HEARD_WITHIN_SECONDS = 30
EVENT = b"id: "
"""The prefix of the line with an event's number; each event has one."""


class Elsewhere:
    def __init__(self, reported: Connection) -> None:
        self._told = reported

    def received(self) -> Any:
        """Its next report. Raises RuntimeError after a timeout."""
        return self.wait(HEARD_WITHIN_SECONDS)

    def wait(self, seconds: float) -> Any:
        if not self._told.poll(seconds):
            raise RuntimeError(f"nothing was heard within {seconds:g} s")
        return self._told.recv()


@contextmanager
def elsewhere(work: Callable[..., None], *args: Any) -> Iterator[Elsewhere]:
    """Runs `work` in a process, which gets a connection and reports on it when it is ready; killed at the end."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_work, args=(os.getpid(), work, there, *args), daemon=True)
    process.start()
    try:
        made = Elsewhere(here)
        made.wait(READY_WITHIN_SECONDS)
        yield made
    finally:
        process.kill()
        process.join()


def _work(parent: int, work: Callable[..., None], *args: Any) -> None:
    die_with_parent(signal.SIGKILL, parent)
    work(*args)


def follow(reported: Connection, url: str, already: int) -> None:
    """Reports the arrival of each new event at an HTTP follower, by `time.perf_counter`."""
    address = urlsplit(url)
    received, rest = 0, b""
    with socket.create_connection((str(address.hostname), int(address.port or 80))) as line:
        line.sendall(request_for(url))
        while data := line.recv(1 << 16):
            now = time.perf_counter()
            *lines, rest = (rest + data).split(b"\n")
            for _ in (line for line in lines if line.startswith(EVENT)):
                received += 1
                if received >= already:
                    reported.send(now)


def request_for(url: str) -> bytes:
    """A GET request with `Connection: close`."""
    address = urlsplit(url)
    return f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode()


def subscribe(reported: Connection, redis_url: str, channel: str) -> None:
    """Reports its subscription, and the arrival of each message at a bare subscriber."""
    with redis.Redis.from_url(redis_url, decode_responses=True).pubsub() as subscription:
        subscription.subscribe(channel)
        for _ in subscription.listen():
            reported.send(time.perf_counter())
