"""HTTP client of a gateway: OpenAI's requests, answers, streams and errors, over the client of the API.

Each failure is an ApiError with the gateway's own code and hint, or GatewayUnavailable.
"""

from __future__ import annotations

import json
import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPResponse
from typing import Any, NoReturn

from aima_api.client import Api, ApiError, ServerSentEvent, events_of
from aima_core.errors import AimaError, Failure, GatewayUnavailable

ANSWER_TIMEOUT = timedelta(minutes=15)
"""For an answer, or between two parts of one: a model may have to start first."""


class Gateway(Api):
    def __init__(self, url: str, *, key: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        """Raises GatewayUnavailable if the URL is not an HTTP URL, Unauthorized if no API can have such a key."""
        super().__init__(url, key=key, tls=tls, reply_timeout=ANSWER_TIMEOUT)

    def ask(self, path: str, request: Mapping[str, Any]) -> bytes:
        """The answer's body."""
        with self._answer(path, json.dumps(request).encode(), "application/json") as response:
            return response.read()

    def send_file(self, path: str, file: bytes, *, name: str, fields: Mapping[str, str]) -> bytes:
        """A form with a file; returns the answer's body."""
        boundary = uuid.uuid4().hex
        parts = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields.items()
        )
        quoted = "".join(each if each.isprintable() and each not in '"\\' else "_" for each in name)
        head = f'{parts}--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'
        form = head.encode() + file + f"\r\n--{boundary}--\r\n".encode()
        with self._answer(path, form, f"multipart/form-data; boundary={boundary}") as response:
            return response.read()

    @contextmanager
    def stream_chat(self, request: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The text of the answer, piece by piece. A stream that ends early raises, as an error in it does."""
        body = json.dumps({**request, "stream": True}).encode()
        with self._answer("/v1/chat/completions", body, "application/json") as response:
            yield self._texts(events_of(response))

    def _texts(self, events: Iterator[ServerSentEvent]) -> Iterator[str]:
        for event in events:
            if event.data == "[DONE]":
                return
            chunk = event.json()
            if "error" in chunk:
                raise ApiError(_failure(chunk["error"]), status=502)
            for choice in chunk.get("choices", ()):
                yield choice.get("delta", {}).get("content") or ""
        raise self._unavailable("the connection was closed within the answer")

    @contextmanager
    def _answer(self, path: str, body: bytes, content_type: str) -> Iterator[HTTPResponse]:
        with self._failures_translated():
            connection = self._connect(ANSWER_TIMEOUT)
            try:
                response = self._send(connection, "POST", path, body, {"Content-Type": content_type})
                if response.status >= 300:
                    self._raise_refusal(response, response.read())
                yield response
            finally:
                connection.close()

    def _raise_refusal(self, response: HTTPResponse, content: bytes) -> NoReturn:
        try:
            failure = _failure(json.loads(content)["error"])
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            detail = f"the server there is not a gateway (it replied {response.status} {response.reason})"
            raise self._unavailable(detail) from wrong
        raise ApiError(failure, status=response.status)

    def _unavailable(self, detail: str) -> AimaError:
        return GatewayUnavailable(url=self.url, detail=detail)


def _failure(error: Mapping[str, Any]) -> Failure:
    """Raises TypeError, AttributeError, KeyError if it is none."""
    hint = error.get("hint") or "The engine's log has more: `aima service logs ID`."
    return Failure(code=str(error.get("code") or "engine_error"), message=str(error["message"]), hint=str(hint))
