"""An API node that requires keys, and requests to it with one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from api.node import Node, api_node

ROOT = "the root key of the tests"
"""In the settings: an admin."""


@dataclass
class Clock:
    """A clock that only the test moves: as a moment, and in seconds."""

    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def __call__(self) -> float:
        return self.at.timestamp()

    def advance(self, by: timedelta) -> None:
        self.at += by


@dataclass(frozen=True)
class Guarded:
    node: Node

    def ask(self, method: str, path: str, key: str | None = ROOT, **parts: Any) -> httpx2.Response:
        headers = dict(parts.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return self.node.client.request(method, path, headers=headers, **parts)

    def create(self, name: str, *scopes: str, **more: Any) -> str:
        """The key itself."""
        answer = self.ask("POST", "/v1/keys", json={"name": name, "scopes": scopes or ("read",), **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    def audit(self, **filters: Any) -> list[dict[str, Any]]:
        answer = self.ask("GET", "/v1/audit", params=filters)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


@contextmanager
def guarded_node(redis_url: str, **api: Any) -> Iterator[Guarded]:
    with api_node(redis_url, keys=[ROOT], **api) as node:
        yield Guarded(node)
