"""Every answer that is not a success, as a problem document (RFC 9457) with its code and hint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from aima_core.errors import AimaError, InvalidRequest, MethodNotAllowed, NotFound

MEDIA_TYPE = "application/problem+json"
_MOST_MISTAKES = 5


class Problem(BaseModel):
    """What a request that was not carried out is answered with."""

    type: str
    title: str
    status: int
    detail: str
    """A sentence that says what happened."""
    code: str
    """Stable, for programs."""
    hint: str
    """What to do about it."""
    instance: str
    log_tail: tuple[str, ...] | None = None


def answer_all_failures(app: FastAPI) -> None:
    """Answer whatever is raised while a request is handled."""
    app.add_exception_handler(AimaError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _mistaken)


def problem(failed: AimaError, *, instance: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    failure = failed.failure
    document = Problem(
        type=f"urn:aima:problem:{failure.code}",
        title=failure.code.replace("_", " ").capitalize(),
        status=failed.status,
        detail=failure.message,
        code=failure.code,
        hint=failure.hint,
        instance=instance,
        log_tail=failure.log_tail or None,
    )
    content = document.model_dump(mode="json", exclude_none=True)
    return JSONResponse(
        content, status_code=failed.status, headers={**_headers(failed), **(headers or {})}, media_type=MEDIA_TYPE
    )


def _headers(failed: AimaError) -> dict[str, str]:
    known = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "5"}, 503: {"Retry-After": "2"}}
    return known.get(failed.status, {})


def _failed(request: Request, failed: Exception) -> JSONResponse:
    assert isinstance(failed, AimaError)
    return problem(failed, instance=request.url.path)


def _invalid(request: Request, wrong: Exception) -> JSONResponse:
    assert isinstance(wrong, RequestValidationError)
    mistakes = [_mistake(error) for error in wrong.errors()[:_MOST_MISTAKES]]
    remedy = "Mend the fields named; /openapi.json describes each of them."
    return problem(InvalidRequest(detail=" ".join(mistakes), remedy=remedy), instance=request.url.path)


def _mistake(error: Mapping[str, Any]) -> str:
    """Where it is, what would be right, and what was given instead."""
    field = ".".join(str(part) for part in error["loc"][1:])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return f"The body is not JSON: {error.get('ctx', {}).get('error', message)}."
    if error["type"] == "extra_forbidden":
        return f"`{field}`: there is no such field here."
    given = error.get("input")
    told = f", not {given!r}" if isinstance(given, (str, int, float)) and len(repr(given)) <= 100 else ""
    return f"`{field}`: {message}{told}." if field else f"{message}."


def _refused(request: Request, refused: Exception) -> JSONResponse:
    """What the framework itself refuses: no such path or method, a body it cannot read."""
    assert isinstance(refused, HTTPException)
    path, headers = request.url.path, refused.headers or {}
    if refused.status_code == 404:
        return problem(NotFound(path=path[:200]), instance=path)
    if refused.status_code == 405:
        allowed = headers.get("Allow", "none")
        failed = MethodNotAllowed(method=request.method, path=path[:200], allowed=allowed)
        return problem(failed, instance=path, headers=headers)
    remedy = "See /openapi.json for what it takes."
    return problem(InvalidRequest(detail=f"{refused.detail}.", remedy=remedy), instance=path)


def _mistaken(request: Request, mistake: Exception) -> JSONResponse:
    """A bug: the server logs its traceback, and the client learns its kind only."""
    return problem(AimaError(detail=f"an unexpected {type(mistake).__name__}."), instance=request.url.path)
