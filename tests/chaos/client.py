"""A client of several API nodes: it retries an unanswered request at another node, with the same idempotency key."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import httpx2

GIVES_UP_AFTER = timedelta(seconds=120)
PAUSE_SECONDS = 0.3


class Node(NamedTuple):
    url: str
    headers: Mapping[str, str] = {}


class Answer(NamedTuple):
    status: int
    body: Any
    tries: int

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None

    @property
    def operations(self) -> list[str]:
        return [each["id"] for each in self.body.get("operations", ())] if self.status == 202 else []


class Asking:
    """Safe to use from many threads."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._clients = [httpx2.Client(base_url=node.url, headers=dict(node.headers), timeout=20) for node in nodes]

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, first: int = 0) -> Answer:
        """The first final response of any node; node `first` is asked first."""
        headers = {"Idempotency-Key": uuid.uuid4().hex, "content-type": "application/json"}
        deadline = time.monotonic() + GIVES_UP_AFTER.total_seconds()
        tries, answer = 0, Answer(0, "no node answered", 0)
        while time.monotonic() < deadline:
            client = self._clients[(first + tries) % len(self._clients)]
            tries += 1
            try:
                said = client.post(path, json=dict(body or {}), headers=headers)
            except httpx2.TransportError as away:
                answer = Answer(0, repr(away), tries)
            else:
                answer = Answer(said.status_code, _parsed(said), tries)
                if answer.status != 503 and answer.code != "request_in_progress":
                    return answer
            time.sleep(PAUSE_SECONDS)
        return answer

    def close(self) -> None:
        for client in self._clients:
            client.close()


def _parsed(said: httpx2.Response) -> Any:
    try:
        return said.json()
    except ValueError:
        return said.text
