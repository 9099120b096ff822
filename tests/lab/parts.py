"""Real parts that a test needs, free ports, and polling. A test without its part is skipped, and fails in CI."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import NoReturn

import psutil

PORTS = range(22_000, 32_000)
SHARES = 8
"""Of these ports: each xdist worker takes those of one."""
OF_THE_WAIT, LONGEST_PAUSE = 1 / 30, timedelta(milliseconds=200)
"""Between two polls, a part of the time waited so far, and no longer than that."""
_taken = count(random.randrange(len(PORTS)))
"""From another one in each process: those that tests start inherit the number of the xdist worker."""


def missing(reason: str) -> NoReturn:
    """Skip the test with the reason; fail it where CI=true."""
    import pytest  # which takes processes that tests start 0.3 s of a core

    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A free TCP port of loopback, which no other call returns soon: it may be taken later than it is chosen (race).

    Below the kernel's ephemeral ports, of which an outgoing connection could take it meanwhile.
    """
    own = PORTS[xdist_worker() % SHARES :: SHARES]
    while True:
        port = own[next(_taken) % len(own)]
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def own_ports(first: int, number: int = 10) -> range:
    """Ports of this process, by the number of its xdist worker: tests that run at once do not share them."""
    first += number * xdist_worker()
    return range(first, first + number)


def xdist_worker() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def eventually(
    fact: Callable[[], bool],
    *,
    within: timedelta = timedelta(seconds=10),
    every: timedelta = timedelta(milliseconds=20),
) -> bool:
    """Whether `fact` becomes true in time. The longer it takes, the less often it is polled: polls take CPU time."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < within.total_seconds():
        if fact():
            return True
        time.sleep(max(every.total_seconds(), min(waited * OF_THE_WAIT, LONGEST_PAUSE.total_seconds())))
    return fact()


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended: it may be reaped at any moment, between two questions about it as well."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def size_of(files: Iterable[Path]) -> int:
    """In bytes, of those that exist: a log may be rotated between its listing and its inspection (race)."""
    size = 0
    for file in files:
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def received(line: socket.socket) -> bytes:
    """All until the server closes the connection; raises TimeoutError if it does not."""
    parts = []
    with suppress(ConnectionResetError):
        while part := line.recv(65536):
            parts.append(part)
    return b"".join(parts)
