"""Real parts that a test needs: absent, they skip it on a desk and fail it in CI."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """End the test for want of a part: skipped with the reason, failed where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def eventually(fact: Callable[[], bool], *, within: timedelta = timedelta(seconds=10)) -> bool:
    """Whether `fact` comes true in time; asked every 20 ms."""
    deadline = time.monotonic() + within.total_seconds()
    while time.monotonic() < deadline:
        if fact():
            return True
        time.sleep(0.02)
    return fact()
