"""The API over HTTP: requests, pages and event streams, with every way to fail named.

What the API refuses is `Refused` with the failure it gave; an API that is away, or is something else, is
`ApiUnavailable`. Nothing is sent twice: a POST carries an Idempotency-Key, so that a person may.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from aima_api.cli.errors import ApiError
from aima_core.errors import ApiUnavailable, Failure

ANSWERS_WITHIN = timedelta(seconds=30)
CONNECTS_WITHIN = timedelta(seconds=5)
SILENCE = timedelta(seconds=45)
"""An event stream that says nothing for three heartbeats has died."""
PAGE = 200

Noun = TypeVar("Noun", bound=BaseModel)


class Api:
    def __init__(self, url: str, *, key: str | None = None, answers_within: timedelta = ANSWERS_WITHIN) -> None:
        self.url = url.rstrip("/")
        connects_within = min(answers_within, CONNECTS_WITHIN).total_seconds()
        with self._named_failures():
            self._client = httpx2.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx2.Timeout(answers_within.total_seconds(), connect=connects_within),
                limits=httpx2.Limits(max_connections=None),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **filters: object) -> Any:
        asked = {name: str(value) for name, value in filters.items() if value is not None}
        return self._send("GET", path, params=asked or None)  # none at all: an empty one would take the path's own away

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._send("POST", path, json=dict(body or {}), headers={"Idempotency-Key": str(uuid.uuid4())})

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

    def every(self, path: str, *, at_most: int | None = None, **filters: object) -> list[dict[str, Any]]:
        """The items of a listing, page after page."""
        items: list[dict[str, Any]] = []
        cursor = None
        while at_most is None or len(items) < at_most:
            size = PAGE if at_most is None else min(PAGE, at_most - len(items))
            page = self.get(path, limit=size, cursor=cursor, **filters)
            items += page["items"]
            cursor = page.get("next")
            if not cursor:
                break
        return items[:at_most]

    @contextmanager
    def stream(self, path: str, *, after: int) -> Iterator[Iterator[httpx2.ServerSentEvent]]:
        """Server-sent events from the one after number `after` on. Ends when the API ends it."""
        timeout = httpx2.Timeout(SILENCE.total_seconds(), connect=CONNECTS_WITHIN.total_seconds())
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self._named_failures(), self._client.sse(path, headers=headers, timeout=timeout) as source:
            if source.response.is_error:
                source.response.read()
                self._refuse(source.response)
            yield iter(source)

    def read(self, noun: type[Noun], data: object) -> Noun:
        """What the API sent as one of AIMA's nouns."""
        try:
            return noun.model_validate(data)
        except ValidationError as wrong:
            detail = f"it answers as a version that this one does not understand ({wrong.errors()[0]['msg']})"
            raise ApiUnavailable(url=self.url, detail=detail) from wrong

    def _send(self, method: str, path: str, **parts: Any) -> Any:
        with self._named_failures():
            answer = self._client.request(method, path, **parts)
            if answer.is_error:
                self._refuse(answer)
            return answer.json() if answer.content else None

    def _refuse(self, answer: httpx2.Response) -> None:
        """Raise what the API said was wrong, or that this is no API of AIMA's."""
        try:
            problem = answer.json()
            failure = Failure(
                code=problem["code"],
                message=problem["detail"],
                hint=problem["hint"],
                log_tail=tuple(problem.get("log_tail") or ()),
            )
        except (ValueError, KeyError, TypeError) as wrong:
            detail = f"what is there answered {answer.status_code} {answer.reason_phrase}"
            raise ApiUnavailable(url=self.url, detail=detail) from wrong
        raise ApiError(failure, status=answer.status_code)

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except json.JSONDecodeError as wrong:
            raise ApiUnavailable(url=self.url, detail="what is there does not speak JSON") from wrong
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.DecodingError) as wrong:
            raise ApiUnavailable(url=self.url, detail=_plainly(wrong)) from wrong


def path_of(*words: str) -> str:
    """`/v1/…` with each word quoted."""
    return "/v1/" + "/".join(quote(word, safe=":@") for word in words)


def _plainly(wrong: Exception) -> str:
    match wrong:
        case httpx2.ConnectTimeout():
            return "no connection in time"
        case httpx2.TimeoutException():
            return "no answer in time"
        case _:
            return re.sub(r"^\[Errno -?\d+\] ", "", str(wrong)) or type(wrong).__name__
