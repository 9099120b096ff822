"""One operation's events, each once and in order, across lost connections.

A stream that breaks is taken up again after the last number seen, with growing and jittered rests. A gap in the
numbers is asked for again, and bridged by the record when the API no longer has what is missing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import timedelta

from aima_api.cli.errors import ApiError
from aima_api.client import Api, path_of
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Operation
from aima_core.errors import ApiUnavailable

PATIENCE = timedelta(minutes=2)
"""An API that is away for longer is given up."""
FIRST_REST = timedelta(milliseconds=200)
LONGEST_REST = timedelta(seconds=5)


@dataclass(frozen=True)
class Away:
    """The stream is lost, and is being sought again."""

    why: str


News = Event | Operation | Away
"""An Operation stands for all events up to its `seq`."""


class EventFollower:
    def __init__(
        self,
        api: Api,
        operation: OperationId,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._operation = operation
        self._sleep = sleep
        self._clock = clock
        self._last = 0
        self._failed = 0
        self._heard_at = clock()

    def __iter__(self) -> Iterator[News]:
        """News until the operation has ended. Raises Refused, or ApiUnavailable once patience is over."""
        ended = False
        while not ended:
            try:
                ended = yield from self._round()
            except ApiUnavailable as away:
                yield self._lost(away)
            except ApiError as refused:
                if not refused.passing:
                    raise
                yield self._lost(refused)
            if not ended:
                self._rest()

    def _round(self) -> Generator[News, None, bool]:
        """One connection, or the record where that brought nothing; returns whether the operation has ended."""
        before = self._last
        for news in self._one_connection():
            yield news
            if _ended(news):
                return True
        return (yield from self._bridged()) if self._last == before else False

    def _one_connection(self) -> Iterator[Event | Operation]:
        path = path_of("operations", self._operation, "events")
        with self._api.stream(path, after=self._last) as stream:
            for message in stream:
                if message.event == "reset":
                    news: Event | Operation = self._api.read(Operation, message.json())
                else:
                    news = self._api.read(Event, message.json())
                    if news.seq > self._last + 1:
                        return  # the caller connects again after the last one seen
                    if news.seq <= self._last:
                        continue
                self._heard(news)
                yield news

    def _bridged(self) -> Generator[News, None, bool]:
        """The record, if it is ahead of what was heard or has ended; returns whether it has ended."""
        record = self._api.read(Operation, self._api.get(path_of("operations", self._operation)))
        if record.seq > self._last or record.state.ended:
            self._heard(record)
            yield record
        return record.state.ended

    def _heard(self, news: Event | Operation) -> None:
        self._last = news.seq
        self._failed = 0
        self._heard_at = self._clock()

    def _lost(self, problem: Exception) -> Away:
        if self._clock() - self._heard_at > PATIENCE.total_seconds():
            raise problem
        return Away(str(problem))

    def _rest(self) -> None:
        longest = min(FIRST_REST * 2**self._failed, LONGEST_REST)
        self._failed = min(self._failed + 1, 10)
        self._sleep(longest.total_seconds() * random.uniform(0.5, 1))


def _ended(news: Event | Operation) -> bool:
    return (news.phase.state if isinstance(news, Event) else news.state).ended
