"""Clients of a chat API without retries: what each request got, when, and how it ended."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.gateway.engine import length_of

MODEL = "dial"
PATH = "/v1/chat/completions"
_STEPS = 97
"""Parts of a spread, one for each connection in turn."""
_OWN_TIME = re.compile(rb'"content": ?"(\d+)"')
_EVENT = b"data: {"


@dataclass(frozen=True)
class Load:
    url: str
    model: str
    key: str = ""
    at_once: int = 1
    number: int = 1
    """Of requests in all."""
    tokens: int = 5
    streamed: bool = False
    asks_for_usage: bool = False
    pace: float | None = None
    """Seconds between two tokens; None takes the engine's."""
    spread: float = 0.0
    """Seconds over which the first requests start."""
    abort_after: int | None = None
    """Leaves after so many bytes of the answer's body."""

    @property
    def request(self) -> bytes:
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": "Count the words."}]}
        body["max_tokens"] = self.tokens
        if self.streamed:
            body["stream"] = True
        if self.asks_for_usage:
            body["stream_options"] = {"include_usage": True}
        if self.pace is not None:
            body["pace"] = self.pace
        content = json.dumps(body).encode()
        lines = [
            f"POST {PATH} HTTP/1.1",
            f"Host: {urlsplit(self.url).netloc}",
            "Content-Type: application/json",
            f"Authorization: Bearer {self.key or 'none'}",
            f"Content-Length: {len(content)}",
            "\r\n",
        ]
        return "\r\n".join(lines).encode() + content


@dataclass
class Answer:
    status: int = 0
    """0 if the connection ended before the first byte."""
    seconds: float = 0.0
    added: float = 0.0
    """Of them, those that a stream's engine did not need itself."""
    complete: bool = False
    tokens: int = 0
    """Events of a stream that carry one."""
    left: bool = False

    @property
    def failed(self) -> bool:
        """Before its first byte."""
        return self.status != 200 and not self.left


@dataclass
class Running:
    answers: list[Answer] = field(default_factory=list)
    stopping: Event = field(default_factory=Event)


def answers_to(load: Load) -> list[Answer]:
    """Sends the requests and waits for their ends."""
    running = Running()
    uvloop.run(_send_all(load, running))
    return running.answers


def serves(load: Load) -> bool:
    """Whether its first request is answered."""
    try:
        return answers_to(load)[0].status == 200
    except OSError:
        return False


@contextmanager
def loading(*loads: Load) -> Iterator[Running]:
    """Sends requests of these kinds during the block, whatever their number; then waits for their ends."""
    running = Running()

    async def send() -> None:
        await asyncio.gather(*(_send_all(replace(each, number=1 << 60), running) for each in loads))

    thread = Thread(target=lambda: uvloop.run(send()), name="load")
    thread.start()
    try:
        yield running
    finally:
        running.stopping.set()
        thread.join()


def held(load: Load, look: Callable[[], float]) -> float:
    """What `look` returns while all the streams are open."""

    async def measure() -> float:
        _raise_descriptor_limit()
        connections = [await _Connection.opened(load) for _ in range(load.at_once)]
        tasks = [asyncio.create_task(each.ask(load)) for each in connections]
        await asyncio.gather(*(each.begun.wait() for each in connections))
        figure = look()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return figure

    return uvloop.run(measure())


async def _send_all(load: Load, running: Running) -> None:
    _raise_descriptor_limit()
    left = iter(range(load.number))
    await asyncio.gather(*(_keep_sending(load, number, left, running) for number in range(load.at_once)))


async def _keep_sending(load: Load, number: int, left: Iterator[int], running: Running) -> None:
    await asyncio.sleep(load.spread * (number * 31 % _STEPS) / _STEPS)
    connection: _Connection | None = None
    for _ in left:
        if running.stopping.is_set():
            break
        if connection is None or connection.is_lost:
            connection = await _Connection.opened(load)
        running.answers.append(await connection.ask(load))
    if connection is not None:
        connection.close()


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self) -> None:
        self.is_lost = False
        self.begun = asyncio.Event()
        self._transport: Any = None
        self._head = b""
        self._body: list[bytes] = []
        self._size = 0
        self._length: int | None = None
        self._limit: int | None = None
        self._done: asyncio.Future[bool] | None = None

    @classmethod
    async def opened(cls, load: Load) -> _Connection:
        address = urlsplit(load.url)
        _, made = await asyncio.get_running_loop().create_connection(
            cls, str(address.hostname), int(address.port or 80)
        )
        return made

    async def ask(self, load: Load) -> Answer:
        self._head, self._body, self._size, self._length = b"", [], 0, None
        self._limit = load.abort_after
        self._done = asyncio.get_running_loop().create_future()
        began = perf_counter()
        if not self.is_lost:
            self._transport.write(load.request)
            try:
                complete = await self._done
            finally:
                if not self._done.done() or self._done.cancelled():
                    self._transport.abort()
        else:
            complete = False
        seconds = perf_counter() - began
        status = int(self._head.split(b" ", 2)[1]) if self._head else 0
        return self._judged(load, Answer(status, seconds, seconds, complete))

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.begun.set()
        if not self._head:
            data = b"".join([*self._body, data])
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._body = [head]
                return
            self._head, self._body = head, []
            if b"\r\ncontent-length:" in head.lower():
                self._length = length_of(head)
        self._body.append(data)
        self._size += len(data)
        if self._limit is not None and self._size > self._limit:
            self.is_lost = True
            self._end(complete=False)
            self._transport.abort()
        elif self._is_whole():
            self._end(complete=True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the base class names it
        self.is_lost = True
        self._end(complete=False)

    def _is_whole(self) -> bool:
        if self._length is not None:
            return self._size >= self._length
        last = self._body[-1] if len(self._body[-1]) > 4 else b"".join(self._body[-5:])
        return last.endswith(b"0\r\n\r\n")

    def _end(self, *, complete: bool) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(complete)

    def _judged(self, load: Load, answer: Answer) -> Answer:
        body = b"".join(self._body)
        answer.left = load.abort_after is not None and self._size > load.abort_after
        if answer.status != 200 or not load.streamed:
            return answer
        answer.complete = answer.complete and b"data: [DONE]" in body
        if answer.complete:
            answer.tokens = body.count(_EVENT) - body.count(b'"usage":{') - body.count(b'"usage": {')
            answer.added = answer.seconds - int(_OWN_TIME.findall(body)[-1]) / 1e9
        return answer


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
