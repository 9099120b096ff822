"""Parts of files are sent by the kernel, in threads that end with their connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from aima_worker.dataplane.uploads import FileSender

CONTENT = bytes(range(256)) * 40_000
"""More than the buffers of a connection take."""

Test = Callable[[FileSender, asyncio.Transport, socket.socket], Awaitable[Any]]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb") as opened:
        yield opened.fileno()


def run(test: Test) -> None:
    """With a sender of one thread, a transport, and the client's end of its connection."""

    async def connected() -> None:
        server, client = socket.socketpair()
        with closing(client):
            client.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=server)
            try:
                await test(FileSender(1), transport, client)
            finally:
                transport.abort()

    uvloop.run(connected())


async def received(client: socket.socket, count: int) -> bytes:
    """Less at the end of the connection."""
    parts, loop = bytearray(), asyncio.get_running_loop()
    while len(parts) < count and (part := await loop.sock_recv(client, count - len(parts))):
        parts += part
    return bytes(parts)


def test_a_range_is_sent_after_what_the_transport_holds(file: int) -> None:
    async def test(sender: FileSender, transport: asyncio.Transport, client: socket.socket) -> None:
        head = b"h" * 4_000_000
        transport.write(head)
        sending = asyncio.create_task(sender.send(transport, file, at=1000, count=9_000_000))
        assert await received(client, len(head) + 9_000_000) == head + CONTENT[1000:9_001_000]
        await sending

    run(test)


def test_a_cancellation_ends_the_thread_and_the_connection(file: int) -> None:
    async def test(sender: FileSender, transport: asyncio.Transport, client: socket.socket) -> None:
        stuck = asyncio.create_task(sender.send(transport, file, at=0, count=len(CONTENT)))
        assert await received(client, 1000) == CONTENT[:1000]
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        assert len(await received(client, len(CONTENT))) < len(CONTENT) - 1000
        free, other = socket.socketpair()
        with closing(other):
            other.setblocking(False)
            next_one, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=free)
            await sender.send(next_one, file, at=0, count=1000)
            assert await received(other, 1000) == CONTENT[:1000]
            next_one.abort()

    run(test)


@pytest.mark.parametrize("end", ["client", "transport"])
def test_an_end_of_the_connection_ends_the_transfer(file: int, end: str) -> None:
    async def test(sender: FileSender, transport: asyncio.Transport, client: socket.socket) -> None:
        sending = asyncio.create_task(sender.send(transport, file, at=0, count=len(CONTENT)))
        assert await received(client, 1000) == CONTENT[:1000]
        if end == "client":
            client.close()
        else:
            transport.abort()
            sending.cancel()
        with pytest.raises((OSError, asyncio.CancelledError)):
            await sending

    run(test)


def test_a_file_that_has_become_shorter_is_an_error(file: int) -> None:
    async def test(sender: FileSender, transport: asyncio.Transport, client: socket.socket) -> None:
        sending = asyncio.create_task(sender.send(transport, file, at=len(CONTENT) - 10, count=20))
        assert await received(client, 10) == CONTENT[-10:]
        with pytest.raises(OSError, match="shorter"):
            await sending

    run(test)
