"""Errors as clients of OpenAI's and Anthropic's APIs expect them, with AIMA's code and hint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from aima_api.gateway.inference import PATHS, Inference
from aima_core.errors import AimaError

Headers = list[tuple[bytes, bytes]]
JSON: Final = (b"content-type", b"application/json")
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_RETRY_AFTER = 2
"""Seconds, for a 503 that states none."""


def error_body(error: AimaError, operation: Inference | None) -> bytes:
    return _body(error.code, error.status, error.failure.message, error.failure.hint, operation)


def error_headers(error: AimaError) -> Headers:
    headers = [JSON]
    if error.status in (429, 503):
        headers.append((b"retry-after", str(error.facts.get("wait", _RETRY_AFTER)).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def error_answer(error: AimaError, path: str) -> tuple[Headers, bytes]:
    """The answer to a request that did not reach the application."""
    body = error_body(error, PATHS.get(path))
    return [*error_headers(error), (b"content-length", b"%d" % len(body))], body


def error_event(error: AimaError, operation: Inference) -> bytes:
    """The event that ends a broken stream. Clients of either API raise it as an error."""
    body = error_body(error, operation)
    named = operation in (Inference.MESSAGES, Inference.RESPONSES)
    return b"%sdata: %s\n\n" % (b"event: error\n" if named else b"", body)


def engine_error_body(status: int, body: bytes, operation: Inference) -> bytes:
    """An engine's own error; put into the shape of the API unless it has it."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        return body
    message = found.get("message") or found.get("detail") if isinstance(found, dict) else None
    text = message if isinstance(message, str) else body[:1000].decode(errors="replace").strip()
    return _body("engine_error", status, text or f"The engine answered {status}.", "", operation)


def _body(code: str, status: int, message: str, hint: str, operation: Inference | None) -> bytes:
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": code, "hint": hint}
    document: dict[str, Any] = {"error": error}
    if operation is Inference.MESSAGES:
        document = {"type": "error", "error": error}
    if operation is Inference.RESPONSES:
        document = {"type": "error", "code": code, "message": message, "param": None, "error": error}
    return msgspec.json.encode(document)
