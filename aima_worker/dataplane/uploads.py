"""Sends parts of files by the kernel, without a copy in this process.

In threads: the event loop, which costs a request less than that of the standard library, has no sendfile.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from io import FileIO

FLUSH_INTERVAL = timedelta(milliseconds=1)
"""How often a transport is asked whether it has sent the head of the answer."""


class FileSender:
    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="upload")

    async def send(self, transport: asyncio.Transport, file: int, *, at: int, count: int) -> None:
        """Sends that range of an open file after what the transport holds; a cancellation breaks the connection off.

        Raises OSError, also if the file is shorter.
        """
        while transport.get_write_buffer_size():  # noqa: ASYNC110 a transport says only to its protocol that it is empty
            await asyncio.sleep(FLUSH_INTERVAL.total_seconds())
        connection = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        source = os.fdopen(os.dup(file), "rb", buffering=0)
        sending = asyncio.get_running_loop().run_in_executor(self._threads, _send, connection, source, at, at + count)
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            with suppress(OSError):  # its thread has closed it
                connection.shutdown(socket.SHUT_RDWR)  # which ends its thread at once
            raise


def _send(connection: socket.socket, source: FileIO, at: int, end: int) -> None:
    """Owns both descriptors: closed elsewhere, their numbers could be reused while it sends."""
    with connection, source:
        writable = select.poll()
        writable.register(connection, select.POLLOUT)
        while at < end:
            try:
                sent = os.sendfile(connection.fileno(), source.fileno(), at, end - at)
            except BlockingIOError:
                writable.poll()
                continue
            if not sent:
                raise OSError("the file has become shorter")
            at += sent
