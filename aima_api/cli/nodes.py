"""Client-side failover between API nodes: a request or stream that a node does not answer goes to the next one.

A POST is repeated with its Idempotency-Key, so that a lost reply cannot submit it twice; a DELETE is never repeated.
A node that refuses a request has answered: its refusal, such as that Redis is unavailable, is not retried elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from aima_api.client import Api, ApiError, Headers, ServerSentEvent

if TYPE_CHECKING:
    from aima_core.errors import ApiUnavailable

IN_PROGRESS_TIMEOUT = timedelta(seconds=35)
"""A node that crashed during a request keeps its idempotency key locked for 30 s."""
IN_PROGRESS_INTERVAL = timedelta(seconds=1)

Reply = TypeVar("Reply")


class ApiNodes(Api):
    """Prefers the node that answered last. Raises ApiUnavailable if no node answers."""

    def __init__(self, nodes: Sequence[Api], *, note: Callable[[str], None]) -> None:
        super().__init__(nodes[0].url)
        self._nodes = nodes
        self.note = note
        """Takes a sentence about each failover, in the thread that sent the request."""
        self._current = 0
        self._lost: tuple[str, str] | None = None
        """URL and reason of the node that was lost since the last reply."""
        self._lock = Lock()

    def __exit__(self, *_: object) -> None:
        for node in self._nodes:
            node.__exit__()

    @contextmanager
    def stream(self, path: str, *, after: int | str) -> Iterator[Iterator[ServerSentEvent]]:
        """Opened on the first node that answers. A cut raises ApiUnavailable, and the next stream another node's."""
        from aima_core.errors import ApiUnavailable

        used = list[Api]()

        def open_on(node: Api) -> Iterator[ServerSentEvent]:
            events = opened.enter_context(node.stream(path, after=after))
            used.append(node)
            return events

        try:
            with ExitStack() as opened:  # translates the cut of its connection
                yield self._on_first_that_answers(open_on)
        except ApiUnavailable as cut:
            for node in used:
                self._move_on(node, cut)
            raise

    def _request(self, method: str, path: str, *, content: bytes | None = None, headers: Headers | None = None) -> Any:
        def send(node: Api) -> Any:
            return node._request(method, path, content=content, headers=headers)

        if method == "DELETE":
            self._on_first_that_answers(lambda node: node.get("/healthz"))
            return send(self._nodes[self._current])
        deadline = time.monotonic() + IN_PROGRESS_TIMEOUT.total_seconds()
        while True:
            try:
                return self._on_first_that_answers(send)
            except ApiError as refused:
                if refused.failure.code != "request_in_progress" or time.monotonic() > deadline:
                    raise
                time.sleep(IN_PROGRESS_INTERVAL.total_seconds())

    def _on_first_that_answers(self, call: Callable[[Api], Reply]) -> Reply:
        from aima_core.errors import ApiUnavailable

        for _ in self._nodes:
            node = self._nodes[self._current]
            try:
                reply = call(node)
            except ApiUnavailable as away:
                self._move_on(node, away)
                reason = str(away.facts["detail"])
            except ApiError:
                self._report_failover(node)
                raise
            else:
                self._report_failover(node)
                return reply
        raise ApiUnavailable(url=", ".join(each.url for each in self._nodes), detail=reason)

    def _move_on(self, node: Api, away: ApiUnavailable) -> None:
        """From a lost node, unless another thread has moved on already."""
        with self._lock:
            if self._nodes[self._current] is node:
                self._current = (self._current + 1) % len(self._nodes)
                self._lost = node.url, str(away.facts["detail"])

    def _report_failover(self, node: Api) -> None:
        with self._lock:
            lost, self._lost = self._lost, None
        if lost is not None and lost[0] != node.url:
            self.note(f"{lost[0]} does not answer ({lost[1]}); continuing with {node.url}.")
