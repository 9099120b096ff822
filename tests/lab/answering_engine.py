"""An engine without a model: right answers to the questions of its `ready` checks, and on request wrong ones."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from lab.http_server import http_server

RIGHT_TEXT = "What is the capital of France?"


class AnsweringEngine:
    """`wrong` maps a path to what is answered instead: an object as JSON, bytes as they are, a number as a status."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.wrong: dict[str, Any] = {}
        self.asked: list[str] = []
        self.running = 0
        """The gauge `requests` at /metrics."""
        self.url = ""

    def right(self, path: str, request: bytes) -> Any:
        match path:
            case "/v1/chat/completions":
                return chat(self.model)
            case "/v1/embeddings":
                return embeddings(self.model)
            case "/v1/rerank":
                documents = json.loads(request)["documents"]
                return ranks({index: "Paris" in text for index, text in enumerate(documents)})
            case "/v1/audio/speech":
                return speech()
            case "/v1/audio/transcriptions":
                return {"text": RIGHT_TEXT}
        return 404


def chat(model: str, text: str | None = "The capital") -> dict[str, Any]:
    return {"model": model, "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


def embeddings(model: str, vectors: tuple[list[float], ...] = ([1.0, 0.1], [1.0, 0.2], [0.1, 1.0])) -> dict[str, Any]:
    return {"model": model, "data": [{"index": index, "embedding": each} for index, each in enumerate(vectors)]}


def ranks(fitting: dict[int, bool]) -> dict[str, Any]:
    """In the order of their scores."""
    best_first = sorted(fitting, key=lambda index: not fitting[index])
    return {"results": [{"index": index, "relevance_score": float(fitting[index])} for index in best_first]}


def speech(*, loudness: int = 8000, seconds: float = 1.5, rate: int = 16_000) -> bytes:
    """A tone as WAV."""
    tone = [round(loudness * math.sin(number / 10)) for number in range(round(seconds * rate))]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(struct.pack(f"<{len(tone)}h", *tone))
    return file.getvalue()


@contextmanager
def answering_engine(model: str = "smollm2-135m") -> Iterator[AnsweringEngine]:
    engine = AnsweringEngine(model)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            engine.asked.append(self.path)
            answer = engine.wrong.get(self.path, engine.right(self.path, body))
            status = answer if isinstance(answer, int) else 200
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            content = f"requests {engine.running}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with http_server(Handler) as engine.url:
        yield engine
