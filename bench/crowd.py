"""A load generator: many requests over a few keep-alive connections, with little cost of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import uvloop

CONNECTIONS = 12


def seconds_for(url: str | Sequence[str], body: bytes | None = None, *, times: int, status: int = 202) -> float:
    """Seconds from the first request to the last response; POSTs, or GETs without a body. Several URLs take turns.

    Raises RuntimeError on another status.
    """
    urls = [url] if isinstance(url, str) else url
    address = urlsplit(urls[0])
    head = {"Host": address.netloc}
    if body is not None:
        head |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    method = "GET" if body is None else "POST"
    requests = [_request(method, urlsplit(each).path, head) + (body or b"") for each in urls]
    return uvloop.run(
        _ask(str(address.hostname), int(address.port or 80), requests, times, f"HTTP/1.1 {status}".encode())
    )


def _request(method: str, path: str, head: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode()


async def _ask(host: str, port: int, requests: Sequence[bytes], times: int, expected: bytes) -> float:
    left = iter(range(times))
    lines = [await asyncio.open_connection(host, port, limit=1 << 24) for _ in range(min(CONNECTIONS, times))]
    began = time.perf_counter()
    await asyncio.gather(*(_keep_asking(*line, requests, left, expected) for line in lines))
    took = time.perf_counter() - began
    for _, writer in lines:
        writer.close()
    return took


async def _keep_asking(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    requests: Sequence[bytes],
    left: Iterator[int],
    expected: bytes,
) -> None:
    for number in left:
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        answer = await reader.readexactly(_length(head))
        if not head.startswith(expected):
            raise RuntimeError(f"{head.decode()}{answer.decode()}")


def _length(head: bytes) -> int:
    (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(length.split(b":")[1])
