"""`python engine.py PORT`: an engine that costs little, answers by script, and counts what it does.

It answers with as many tokens as `max_tokens` asks for; a stream sends one at each interval. The last token of a stream
is the time that the stream took here, in nanoseconds: what a client measures beyond it was added on the way. SIGTERM
ends it with its last answer. It imports nothing of the bench, so that it starts fast.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any

import uvloop

PACE_SECONDS = 0.02
"""Between two tokens of a stream, unless `pace` asks for another."""
PROMPT_TOKENS = 7
_HEAD = b"HTTP/1.1 %s\r\ncontent-type: %s\r\n"
_DONE = b"data: [DONE]\n\n"


@dataclass
class Counts:
    requests: int = 0
    chunks: int = 0
    completed: int = 0
    """Tokens of completed answers."""
    aborted: int = 0
    """Answers whose client left."""
    busy: int = 0


class Engine:
    def __init__(self) -> None:
        self.counts = Counts()
        self.connections: set[_Connection] = set()
        self.ending = asyncio.Event()
        self.ended = asyncio.Event()


class _Connection(asyncio.Protocol):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = b""
        self._transport: Any = None
        self._stream: _Stream | None = None

    @property
    def is_idle(self) -> bool:
        return self._stream is None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._engine.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the base class names it
        self._engine.connections.discard(self)
        if self._stream is not None:
            self._stream.abort()
        if not self._engine.connections:
            self._engine.ended.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head, body = self._received[:head_end], self._received[head_end + 4 :]
        if len(body) >= length_of(head):
            self._received = b""
            self._answer(head.split(b" ", 2)[1], body)

    def stream_ended(self) -> None:
        self._stream = None
        self.end_if_asked()

    def end_if_asked(self) -> None:
        if self._engine.ending.is_set():
            self._transport.close()

    def _answer(self, path: bytes, body: bytes) -> None:
        counts = self._engine.counts
        if path == b"/v1/chat/completions":
            counts.requests += 1
            asked = json.loads(body)
            if asked.get("stream"):
                self._stream = _Stream(self, self._transport, asked, counts)
                return
            tokens = asked["max_tokens"]
            counts.completed += tokens
            self._send(_whole(asked["model"], tokens))
        elif path == b"/counts":
            self._send(asdict(counts))
        elif path == b"/v1/models":
            self._send({"object": "list", "data": [{"id": "dial", "object": "model", "owned_by": "bench"}]})
        else:
            self._send({"status": "ok"})
        self.end_if_asked()

    def _send(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        head = _HEAD % (b"200 OK", b"application/json")
        self._transport.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body))


class _Stream:
    def __init__(self, connection: _Connection, transport: Any, asked: dict[str, Any], counts: Counts) -> None:
        self._connection = connection
        self._transport = transport
        self._counts = counts
        self._model = asked["model"]
        self._tokens = asked["max_tokens"]
        self._reports_usage = (asked.get("stream_options") or {}).get("include_usage", False)
        self._pace = asked.get("pace", PACE_SECONDS)
        self._event = _event(_chunk(self._model, "word "))
        self._sent = 0
        self._began = perf_counter_ns()
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        counts.busy += 1
        transport.write(_HEAD % (b"200 OK", b"text/event-stream") + b"transfer-encoding: chunked\r\n\r\n")
        self._timer = self._loop.call_soon(self._send_next)

    def abort(self) -> None:
        self._timer.cancel()
        self._counts.busy -= 1
        self._counts.aborted += 1

    def _send_next(self) -> None:
        self._sent += 1
        self._counts.chunks += 1
        if self._sent < self._tokens:
            self._transport.write(self._event)
            self._due += self._pace
            self._timer = self._loop.call_at(self._due, self._send_next)
            return
        self._transport.write(_event(_chunk(self._model, str(perf_counter_ns() - self._began), last=True)))
        if self._reports_usage:
            self._transport.write(_event(_usage_chunk(self._model, self._tokens)))
        self._transport.write(in_chunks(_DONE) + in_chunks(b""))
        self._counts.busy -= 1
        self._counts.completed += self._tokens
        self._connection.stream_ended()


def _whole(model: str, tokens: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": "word " * tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    common = {"id": "id-1", "object": "chat.completion", "created": 1, "model": model}
    return common | {"choices": [choice], "usage": _usage(tokens)}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}


def _chunk(model: str, text: str, *, last: bool = False) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop" if last else None}
    return {"id": "id-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}


def _usage_chunk(model: str, tokens: int) -> dict[str, Any]:
    return _chunk(model, "") | {"choices": [], "usage": _usage(tokens)}


def _event(document: dict[str, Any]) -> bytes:
    return in_chunks(b"data: %s\n\n" % json.dumps(document, separators=(",", ":")).encode())


def in_chunks(part: bytes) -> bytes:
    """A part of a body in chunked encoding; an empty one ends the body."""
    return b"%x\r\n%s\r\n" % (len(part), part)


def length_of(head: bytes) -> int:
    """The stated length of a body; 0 without one."""
    at = head.lower().find(b"\r\ncontent-length:")
    return 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])


async def _serve(port: int) -> None:
    engine = Engine()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, engine.ending.set)
    server = await loop.create_server(lambda: _Connection(engine), "127.0.0.1", port, backlog=4096)
    await engine.ending.wait()
    server.close()
    for connection in [each for each in engine.connections if each.is_idle]:
        connection.end_if_asked()
    if engine.connections:
        await engine.ended.wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
