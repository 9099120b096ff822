"""OpenAI's audio endpoints around an engine's library, copied beside the engines' programs.

`/health` answers 200 once the model is loaded; before that nothing listens.
"""

# ruff: noqa: T201 its output is the engine's log

import email.parser
import email.policy
import io
import json
import os
import signal
import wave
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONGEST_TEXT = 1 << 20
LONGEST_RECORDING = 64 << 20

Speak = Callable[[str, float], bytes]
"""The text as a WAV file; a speed of 1.0 is an unhurried speaker. Called by several threads at once."""
Transcribe = Callable[[bytes], str]
"""The text of a recording, in the form that the client sent; empty if nothing was understood."""


class Mistake(Exception):
    """The request is wrong; the text says how."""


def end_on_signals() -> None:
    """As the first process of a container, a program without a handler of its own ignores SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


def serve_speech(speak: Speak, *, host: str, port: int) -> None:
    """`POST /v1/audio/speech {"input": …}` answers with a WAV file."""

    class Speech(_Endpoint):
        path_served, longest_body = "/v1/audio/speech", LONGEST_TEXT

        def answer(self, body: bytes) -> tuple[bytes, str]:
            return speak(*_wanted(body)), "audio/wav"

    _serve(Speech, host, port)


def serve_transcriptions(transcribe: Transcribe, *, host: str, port: int) -> None:
    """`POST /v1/audio/transcriptions` with the recording as the form's `file` field or as the whole body."""

    class Transcriptions(_Endpoint):
        path_served, longest_body = "/v1/audio/transcriptions", LONGEST_RECORDING

        def answer(self, body: bytes) -> tuple[bytes, str]:
            text = transcribe(_recording(self.headers.get("Content-Type", ""), body))
            return json.dumps({"text": text}).encode(), "application/json"

    _serve(Transcriptions, host, port)


def wav(samples: bytes, *, sample_rate: int) -> bytes:
    """Of 16-bit mono samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(samples)
    return file.getvalue()


class _Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    path_served: str
    longest_body: int

    def answer(self, body: bytes) -> tuple[bytes, str]:
        """The response body and its type. Raises Mistake."""
        raise NotImplementedError

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(HTTPStatus.OK, b'{"status": "ok"}')
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"ask GET /health or POST {self.path_served}")

    def do_POST(self) -> None:
        if self.path != self.path_served:
            self.close_connection = True  # its body is unread
            return self.do_GET()
        try:
            body, kind = self.answer(self._body())
        except Mistake as mistake:
            # Its body may be unread: the connection cannot serve another request.
            self.close_connection = True
            return self._refuse(HTTPStatus.BAD_REQUEST, str(mistake))
        return self._send(HTTPStatus.OK, body, kind=kind)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or not 0 < int(length) <= self.longest_body:
            raise Mistake(f"a body of 1 to {self.longest_body} bytes is wanted, with its Content-Length")
        return self.rfile.read(int(length))

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(status, json.dumps({"error": why}).encode())

    def _send(self, status: HTTPStatus, body: bytes, *, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        # Health checks come every second and would bury what matters.
        if self.path != "/health":
            super().log_request(code, size)


def _serve(endpoint: type[_Endpoint], host: str, port: int) -> None:
    server = ThreadingHTTPServer((host, port), endpoint)
    print(f"ready on http://{host}:{port}", flush=True)
    server.serve_forever()


def _wanted(body: bytes) -> tuple[str, float]:
    """The text and the speed that a request for speech wants."""
    try:
        request = json.loads(body)
        text, speed = request["input"], float(request.get("speed", 1.0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as wrong:
        raise Mistake(f'send a JSON object such as {{"input": "Hello."}} ({wrong!r})') from wrong
    if not isinstance(text, str) or not 0.25 <= speed <= 2.5:
        raise Mistake("`input` is a text, `speed` a number from 0.25 to 2.5")
    return text, speed


def _recording(content_type: str, body: bytes) -> bytes:
    """The file in a request's body: the form's `file`, or all of it."""
    if not content_type.startswith("multipart/form-data"):
        return body
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    form = parser.parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    for part in form.iter_parts():
        if part.get_param("name", header="content-disposition") == "file":
            return part.get_payload(decode=True)
    raise Mistake("the form has no field `file`")
