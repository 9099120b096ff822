"""An engine that answers as a script says: whole, cut off, silent, broken, or not at all; and counts what it is doing.

Tests set `script` before a request. `busy` counts the requests that it is working on, as an engine counts its slots.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any

from aiohttp import web
from lab.parts import free_port

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Script:
    """What the engine does with a request; by default it answers with `tokens` tokens."""

    tokens: int = 5
    cut_after: int | None = None
    """Closes the connection after so many tokens."""
    end_after: int | None = None
    """Ends its answer as if it was complete after so many tokens, without the last event."""
    silent_after: int | None = None
    """Sends nothing more after so many tokens, and stays connected."""
    broken_line_at: int | None = None
    """The number of the token whose event is not JSON."""
    status: int = 200
    error: Any = None
    """The body of an answer that is no success; None for OpenAI's."""
    close_before_headers: bool = False
    silent_before_headers: bool = False
    token: str = "word "
    delay: float = 0.0
    """Seconds before each token."""
    line_end: bytes = b"\n"
    split: int | None = None
    """Sends its stream in pieces of so many bytes."""
    reports_usage: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    transcript: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the answer to a recording."""


@dataclass
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class ScriptedEngine:
    def __init__(self, name: str = "engine-name") -> None:
        self.name = name
        """By which it answers, whatever it is asked for."""
        self.script = Script()
        self.busy = 0
        self.aborted = 0
        """Requests whose connection was closed before their answer had ended."""
        self.tokens_sent = 0
        self.received: list[Received] = []
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._silence = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plays(self, **script: Any) -> None:
        self.script = Script(**script)

    def also(self, **script: Any) -> None:
        self.script = replace(self.script, **script)

    async def begin(self, port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        self.port = port or free_port()  # race: an outgoing connection could take an ephemeral one before a restart
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def end(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.busy += 1
        ended = False
        try:
            body = await request.read()
            self.received.append(Received(request.path, dict(request.headers), body))
            answer = await self._play(request, body)
            ended = True
            return answer
        finally:
            self.aborted += not ended  # before `busy`, for which tests wait
            self.busy -= 1

    async def _play(self, request: web.Request, body: bytes) -> web.StreamResponse:
        script = self.script
        if script.close_before_headers:
            _cut(request)
        if script.silent_before_headers:
            await self._silence.wait()
        if script.status != 200:
            error = {"error": {"message": "scripted", "type": "scripted"}} if script.error is None else script.error
            return web.json_response(error, status=script.status, headers=script.headers)
        asked = json.loads(body) if request.content_type == "application/json" else {}
        if asked.get("stream"):
            return await self._stream(request, asked, script)
        return await self._whole(request, asked, script)

    async def _whole(self, request: web.Request, asked: dict[str, Any], script: Script) -> web.StreamResponse:
        for _ in range(script.tokens):
            await asyncio.sleep(script.delay)
        self.tokens_sent += script.tokens
        if request.path.endswith("/speech"):
            return web.Response(body=b"RIFF" + bytes(100_000), content_type="audio/wav")
        answer = json.dumps(_answer_to(request.path, self.name, asked, script)).encode()
        if script.cut_after is None:
            return web.Response(body=answer, content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(answer))})
        await response.prepare(request)
        await response.write(answer[: len(answer) // 2])
        _cut(request)
        return response

    async def _stream(self, request: web.Request, asked: dict[str, Any], script: Script) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **script.headers})
        await response.prepare(request)
        events = _EVENTS[request.path](self.name, asked, script)
        for number, event in enumerate(events):
            if number == script.cut_after:
                _cut(request)
            if number == script.end_after:
                return response
            if number == script.silent_after:
                await self._silence.wait()
            if script.delay:
                await asyncio.sleep(script.delay)
            if number == script.broken_line_at:
                event = b'data: {"choices": [{"delta": {"conte\n\n'
            if number < script.tokens:
                self.tokens_sent += 1
            event = event.replace(b"\n", script.line_end)
            size = script.split or len(event)
            for at in range(0, len(event), size):
                await response.write(event[at : at + size])
                if script.split:
                    await asyncio.sleep(0)
        return response


def _cut(request: web.Request) -> None:
    transport = request.transport
    if transport is not None:
        transport.abort()
    raise ConnectionResetError("as the script says")


def _usage(script: Script) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": script.tokens, "total_tokens": 7 + script.tokens}


def _answer_to(path: str, name: str, asked: dict[str, Any], script: Script) -> dict[str, Any]:
    text = script.token * script.tokens
    common = {"id": "id-1", "object": "x", "created": 1, "model": name}
    if path.endswith("/chat/completions"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return common | {"object": "chat.completion", "choices": [choice], "usage": _usage(script)}
    if path.endswith("/completions"):
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return common | {"object": "text_completion", "choices": [choice], "usage": _usage(script)}
    counted = {"input_tokens": 7, "output_tokens": script.tokens}
    if path.endswith("/messages"):
        content = [{"type": "text", "text": text}]
        more = {"type": "message", "role": "assistant", "stop_reason": "end_turn", "stop_sequence": None}
        return {"id": "msg", "model": name, "content": content, "usage": counted, **more}
    if path.endswith("/responses"):
        return _response(name, text, counted)
    if path.endswith("/embeddings"):
        inputs = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        data = [{"object": "embedding", "index": at, "embedding": [0.5, 0.25]} for at in range(len(inputs))]
        return {"object": "list", "model": name, "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    if path.endswith("/rerank"):
        return {"model": name, "results": [{"index": 0, "relevance_score": 0.9}], "usage": {"total_tokens": 7}}
    return {"text": text, "model": name, **script.transcript}


def _response(name: str, text: str, counted: dict[str, int]) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}]
    usage = {**counted, "total_tokens": 7 + counted["output_tokens"]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    more = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None, "status": "completed"}
    return {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": name,
        "output": output,
        "usage": usage | details,
        **more,
    }


def _chat_events(name: str, asked: dict[str, Any], script: Script) -> Iterator[bytes]:
    common = {"id": "id-1", "object": "chat.completion.chunk", "created": 1, "model": name}
    for number in range(script.tokens):
        last = number == script.tokens - 1
        choice = {"index": 0, "delta": {"content": script.token}, "finish_reason": "stop" if last else None}
        yield _event(common | {"choices": [choice]})
    if script.reports_usage and (asked.get("stream_options") or {}).get("include_usage"):
        yield _event(common | {"choices": [], "usage": _usage(script)})
    yield DONE


def _completion_events(name: str, asked: dict[str, Any], script: Script) -> Iterator[bytes]:
    common = {"id": "id-1", "object": "text_completion", "created": 1, "model": name}
    for number in range(script.tokens):
        last = number == script.tokens - 1
        yield _event(
            common | {"choices": [{"index": 0, "text": script.token, "finish_reason": "stop" if last else None}]}
        )
    if script.reports_usage and (asked.get("stream_options") or {}).get("include_usage"):
        yield _event(common | {"choices": [], "usage": _usage(script)})
    yield DONE


def _message_events(name: str, _: dict[str, Any], script: Script) -> Iterator[bytes]:
    usage = {"input_tokens": 7, "output_tokens": 1}
    message = {"id": "msg", "type": "message", "role": "assistant", "model": name, "content": [], "usage": usage}
    message |= {"stop_reason": None, "stop_sequence": None}
    yield _named("message_start", {"message": message})
    yield _named("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
    for _number in range(script.tokens):
        yield _named("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": script.token}})
    yield _named("content_block_stop", {"index": 0})
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _named("message_delta", {"delta": delta, "usage": {"output_tokens": script.tokens}})
    yield _named("message_stop", {})


def _response_events(name: str, _: dict[str, Any], script: Script) -> Iterator[bytes]:
    whole = _response(name, script.token * script.tokens, {"input_tokens": 7, "output_tokens": script.tokens})
    yield _named(
        "response.created",
        {"sequence_number": 0, "response": {**whole, "status": "in_progress", "output": [], "usage": None}},
    )
    for number in range(script.tokens):
        place = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": [], "sequence_number": number + 1}
        yield _named("response.output_text.delta", {**place, "delta": script.token})
    yield _named("response.completed", {"sequence_number": script.tokens + 1, "response": whole})


_EVENTS: Mapping[str, Callable[[str, dict[str, Any], Script], Iterator[bytes]]] = {
    "/v1/chat/completions": _chat_events,
    "/v1/completions": _completion_events,
    "/v1/messages": _message_events,
    "/v1/responses": _response_events,
}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _named(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\n".encode() + _event({"type": name, **document})


class EngineThread:
    """Engines in an event loop of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="scripted engines")
        self._engines: list[ScriptedEngine] = []

    def start(self) -> None:
        self._thread.start()

    def engine(self, name: str = "engine-name") -> ScriptedEngine:
        engine = ScriptedEngine(name)
        self.run(engine.begin(free_port()))  # which no other process takes while the engine is killed
        self._engines.append(engine)
        return engine

    def kill(self, engine: ScriptedEngine) -> None:
        """Ends it with its connections: its port refuses."""
        self.run(engine.end())

    def restart(self, engine: ScriptedEngine) -> None:
        self.run(engine.begin(engine.port))

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def stop(self) -> None:
        for engine in self._engines:
            self.run(engine.end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def engine_thread() -> Iterator[EngineThread]:
    engines = EngineThread()
    engines.start()
    try:
        yield engines
    finally:
        engines.stop()
