"""Real parts that a test needs, free ports, and polling. A test without its part is skipped, and fails in CI."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import pytest

PORTS = (22_000, 32_000)


def missing(reason: str) -> NoReturn:
    """Skip the test with the reason; fail it where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A free TCP port of loopback.

    Below the kernel's ephemeral ports: an outgoing connection could take one of them before the caller does (race).
    """
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def own_ports(first: int) -> range:
    """Ten ports of this process, by the number of its xdist worker: tests that run at once do not share them."""
    first += 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return range(first, first + 10)


def eventually(
    fact: Callable[[], bool],
    *,
    within: timedelta = timedelta(seconds=10),
    every: timedelta = timedelta(milliseconds=20),
) -> bool:
    """Whether `fact` becomes true in time."""
    deadline = time.monotonic() + within.total_seconds()
    while time.monotonic() < deadline:
        if fact():
            return True
        time.sleep(every.total_seconds())
    return fact()


def received(line: socket.socket) -> bytes:
    """All until the server closes the connection; raises TimeoutError if it does not."""
    parts = []
    with suppress(ConnectionResetError):
        while part := line.recv(65536):
            parts.append(part)
    return b"".join(parts)
