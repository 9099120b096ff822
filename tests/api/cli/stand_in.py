"""An API that answers by script over real HTTP, its event streams cut where the script says so."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

from lab.http_server import http_server

ID = "0b5f4c1e-3c1c-4a52-9c55-3f8a3a0f9f21"
SERVICE = "svc-llamacpp-smollm2-135m"
BEGINNING = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

CUT = "cut"
"""Closes the connection here."""
HOLD = "hold"
"""Sends no more until the test ends."""


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class StandIn:
    """Responses are found by `METHOD /path`; the last of several is repeated. Each connection consumes a stream."""

    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    streams: dict[str, list[list[str]]] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answer(self, request: str, body: Any, *, status: int = 200) -> None:
        self.answers.setdefault(request, []).append((status, body))

    def refuse(
        self, request: str, *, code: str, status: int, detail: str = "It may not be.", hint: str = "Ask."
    ) -> None:
        self.answer(request, {"code": code, "status": status, "detail": detail, "hint": hint}, status=status)

    def stream(self, *frames: str, operation: str = ID) -> None:
        """The stream of the next connection to that operation's events."""
        self.streams.setdefault(f"/v1/operations/{operation}/events", []).append(list(frames))

    def asked(self, request: str) -> list[Received]:
        method, path = request.split()
        return [each for each in self.received if (each.method, each.path.partition("?")[0]) == (method, path)]

    def next_answer(self, request: str) -> tuple[int, Any]:
        left = self.answers.get(request)
        if not left:
            return 404, {"code": "not_found", "detail": f"Not in the script: {request}", "hint": "Script it."}
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def stand_in_api(port: int = 0) -> Iterator[StandIn]:
    script = StandIn()
    with http_server(_handler(script), port=port) as script.url:
        try:
            yield script
        finally:
            script.over.set()


def an_operation(**fields: Any) -> dict[str, Any]:
    """An operation's record as the API sends it."""
    return {
        "id": ID,
        "kind": "start",
        "state": "queued",
        "phase": "queued",
        "fence": 1,
        "route": "cpu.amd64",
        "service": SERVICE,
        "created_at": BEGINNING.isoformat(),
    } | fields


def an_event(seq: int, phase: str, *, after: float = 0, operation: str = ID, name: str = "phase", **fields: Any) -> str:
    """One event as a server-sent frame, `after` seconds from the operation's beginning."""
    at = BEGINNING + timedelta(seconds=after)
    event = {"operation": operation, "seq": seq, "at": at.isoformat(), "phase": phase} | fields
    return f"id: {seq}\nevent: {name}\ndata: {json.dumps(event)}\n\n"


def a_pull(downloaded: int, extracted: int, total: int, **fields: Any) -> dict[str, Any]:
    sums = {"image": "llama:1", "downloaded": downloaded, "extracted": extracted, "total": total, "total_known": True}
    return sums | fields


def a_layer(id: str, step: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "step": step} | fields


def a_failure(code: str = "container_exited", **fields: Any) -> dict[str, Any]:
    return {
        "code": code,
        "message": "The engine ended with exit code 3 before it was ready.",
        "hint": "Its last lines say why.",
        "log_tail": ["loading", "CUDA out of memory"],
    } | fields


def _handler(script: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self._note(None)
            if script.streams.get(path):
                self._stream(script.streams[path].pop(0))
            else:
                self._answer(f"GET {path}")

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_form = self.headers.get("Content-Type", "").startswith("multipart/")
            self._note(content if is_form else json.loads(content or b"null"))
            self._answer(f"{self.command} {self.path}")

        def do_PUT(self) -> None:
            self.do_POST()

        def do_PATCH(self) -> None:
            self.do_POST()

        def do_DELETE(self) -> None:
            self._note(None)
            self._answer(f"DELETE {self.path}")

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def _note(self, body: Any) -> None:
            script.received.append(Received(self.command, self.path, dict(self.headers), body))

        def _answer(self, request: str) -> None:
            status, body = script.next_answer(request)
            content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, frames: list[str]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for frame in frames:
                if frame == CUT:
                    self.close_connection = True
                    return
                if frame == HOLD:
                    script.over.wait(30)
                    self.close_connection = True
                    return
                content = frame.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
            self.wfile.write(b"0\r\n\r\n")

    return Handler
