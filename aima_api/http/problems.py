"""Problem documents (RFC 9457): the body of every response that is not a success, with its stable code and hint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request

from aima_core.errors import AimaError, InvalidRequest, MethodNotAllowed, NotFound

MEDIA_TYPE = "application/problem+json"
PATHS_HINT = "See /docs for the API's paths."
_MAX_MISTAKES = 5


class Problem(BaseModel):
    """The response to a refused or failed request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    title: str
    status: int
    detail: str
    """What happened, in a sentence."""
    code: str
    """Stable; for programs."""
    hint: str
    """The next step."""
    instance: str
    log_tail: tuple[str, ...] | None = None


def install_error_handlers(app: FastAPI) -> None:
    for kind in (AimaError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _respond)


def problem(error: AimaError, *, instance: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    failure = error.failure
    document = Problem(
        type=f"urn:aima:problem:{failure.code}",
        title=failure.code.replace("_", " ").capitalize(),
        status=error.status,
        detail=failure.message,
        code=failure.code,
        hint=failure.hint,
        instance=instance,
        log_tail=failure.log_tail or None,
    )
    content = document.model_dump(mode="json", exclude_none=True)
    return JSONResponse(
        content, status_code=error.status, headers={**_headers(error), **(headers or {})}, media_type=MEDIA_TYPE
    )


def _headers(error: AimaError) -> dict[str, str]:
    known = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "5"}, 503: {"Retry-After": "2"}}
    return known.get(error.status, {})


def _respond(request: Request, error: Exception) -> JSONResponse:
    path = request.url.path
    match error:
        case AimaError():
            return problem(error, instance=path)
        case RequestValidationError():
            mistakes = " ".join(_mistake(each) for each in error.errors()[:_MAX_MISTAKES])
            remedy = "Fix the named fields; /openapi.json describes each of them."
            return problem(InvalidRequest(detail=mistakes, remedy=remedy), instance=path)
        case HTTPException():
            return _refused_by_framework(request, error)
    # The server logs the traceback; the client gets the exception's type only.
    return problem(AimaError(detail=f"an unexpected {type(error).__name__}."), instance=path)


def _mistake(error: Mapping[str, Any]) -> str:
    """The field, the rule it breaks, and the given value if it is short."""
    field = ".".join(str(part) for part in error["loc"][1:])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return f"The body is not JSON: {error.get('ctx', {}).get('error', message)}."
    if error["type"] == "extra_forbidden":
        return f"`{field}`: unknown field."
    given = error.get("input")
    instead = f", not {given!r}" if isinstance(given, (str, int, float)) and len(repr(given)) <= 100 else ""
    return f"`{field}`: {message}{instead}." if field else f"{message}."


def _refused_by_framework(request: Request, error: HTTPException) -> JSONResponse:
    """An unknown path or method, or a body that cannot be read."""
    path, headers = request.url.path, error.headers or {}
    if error.status_code == 404:
        return problem(NotFound(path=path[:200], remedy=PATHS_HINT), instance=path)
    if error.status_code == 405:
        allowed = headers.get("Allow", "none")
        refusal = MethodNotAllowed(method=request.method, path=path[:200], allowed=allowed)
        return problem(refusal, instance=path, headers=headers)
    remedy = "/openapi.json describes every request."
    return problem(InvalidRequest(detail=f"{error.detail}.", remedy=remedy), instance=path)
