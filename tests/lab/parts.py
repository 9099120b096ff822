"""Real parts that a test needs: absent, they skip it on a desk and fail it in CI."""

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
    """End the test for want of a part: skipped with the reason, failed where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on just now.

    Below those that the kernel gives to outgoing connections, any of which could take it before its user does.
    """
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def eventually(fact: Callable[[], bool], *, within: timedelta = timedelta(seconds=10)) -> bool:
    """Whether `fact` comes true in time; asked every 20 ms."""
    deadline = time.monotonic() + within.total_seconds()
    while time.monotonic() < deadline:
        if fact():
            return True
        time.sleep(0.02)
    return fact()
