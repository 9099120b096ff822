"""Requests to hostile engines end at their deadline and at their limit, whatever arrives."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain, repeat
from threading import Event, Thread

import pytest

from aima_worker.inference.http import Request, Response, ask

SOON = timedelta(seconds=0.4)
HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def an_engine(*, says: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """Sends these pieces, 50 ms apart, to the first connection, and closes it; yields its URL."""
    gone = Event()

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for piece in says():
                    connection.sendall(piece)
                    if gone.wait(0.05):
                        return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/health"
        finally:
            gone.set()
    thread.join()


def test_a_response_is_returned() -> None:
    with an_engine(says=lambda: iter([HEAD + b"Content-Length: 2\r\n\r\nok"])) as url:
        response = ask(Request(url), SOON, 100)

    assert response == Response(200, b"ok")


@pytest.mark.parametrize(
    "begin",
    [b"", HEAD, HEAD + b"X-Long: ", HEAD + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n"],
    ids=["status line", "headers", "one header", "body", "chunk"],
)
def test_slow_bytes_end_at_the_deadline(begin: bytes) -> None:
    with (
        an_engine(says=lambda: chain([begin or b"H"], repeat(b"x", 60))) as url,
        pytest.raises(OSError, match="timed out"),
    ):
        ask(Request(url), SOON, 1 << 20)


def test_an_endless_body_ends_at_the_limit() -> None:
    endless = an_engine(says=lambda: chain([HEAD + b"\r\n"], repeat(b"x" * 4096)))

    with endless as url, pytest.raises(OSError, match="larger than 100 bytes"):
        ask(Request(url), timedelta(seconds=5), 100)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        HEAD + b"Content-Length: 10\r\n\r\nshort",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"X: y\r\n" * 200 + b"\r\n",
        HEAD + b"X: " + b"y" * 70_000,
    ],
)
def test_a_broken_response_is_an_error(answer: bytes) -> None:
    with an_engine(says=lambda: iter([answer])) as url, pytest.raises(OSError):
        ask(Request(url), timedelta(seconds=5), 100)


def test_a_status_can_be_asked_for_without_a_body() -> None:
    with an_engine(says=lambda: chain([HEAD + b"\r\n"], repeat(b"x"))) as url:
        response = ask(Request(url), timedelta(seconds=5), 0)

    assert response == Response(200, b"")
