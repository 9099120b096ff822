"""A TCP proxy that counts bytes, throttles, freezes and resets connections.

One event loop in one thread, so that many connections cost little and shutdown is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

CHUNK = 16 * 1024


class Proxy:
    """Settings apply from the next chunk, also to open connections."""

    def __init__(self, target: int | str) -> None:
        self.port = 0
        self.carried = 0
        """Bytes from the server so far, over all connections."""
        self.bytes_per_second: float | None = None
        self.freeze_after: int | None = None
        """After that many bytes nothing more is forwarded, and nothing is closed."""
        self.cut_after: int | None = None
        """After that many bytes connections are reset, also new ones."""
        self._target = target
        self._ready = Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._standing: set[asyncio.StreamWriter] = set()
        self._connections = 0
        self._dead_before = 0

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def run(self) -> None:
        asyncio.run(self._serve())

    def wait_ready(self) -> None:
        assert self._ready.wait(60)

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)

    def freeze_what_stands(self) -> None:
        """Freezes open connections without closing them; new ones are served."""
        self._dead_before = self._connections

    def cut_what_stands(self) -> None:
        """Resets every open connection; new ones are served."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._abort_all)

    def _abort_all(self) -> None:
        for out in self._standing:
            out.transport.abort()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        number = self._connections
        self._connections += 1
        far, far_out = await self._reach()
        self._standing |= {near_out, far_out}
        asking = asyncio.create_task(_pass_on(near, far_out))
        # The loop cancels open connections at its end; that is no error.
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._answer(far, near_out, number)
        asking.cancel()
        self._standing -= {near_out, far_out}
        for out in (near_out, far_out):
            out.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    def _is_frozen(self, number: int) -> bool:
        return number < self._dead_before or (self.freeze_after is not None and self.carried >= self.freeze_after)

    async def _answer(self, far: asyncio.StreamReader, out: asyncio.StreamWriter, number: int) -> None:
        while piece := await far.read(CHUNK):
            if self.cut_after is not None and self.carried >= self.cut_after:
                return
            while self._is_frozen(number):
                await asyncio.sleep(0.02)
                if out.transport.is_closing():
                    return
            if self.bytes_per_second is not None:
                await asyncio.sleep(len(piece) / self.bytes_per_second)
            self.carried += len(piece)
            out.write(piece)
            await out.drain()


@contextmanager
def proxy(target: int | str) -> Iterator[Proxy]:
    """A proxy of the loopback port or the Unix socket `target`."""
    between = Proxy(target)
    thread = Thread(target=between.run, name="proxy")
    thread.start()
    between.wait_ready()
    try:
        yield between
    finally:
        between.stop()
        thread.join(5)


async def _pass_on(source: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await source.read(CHUNK):
            out.write(piece)
            await out.drain()
