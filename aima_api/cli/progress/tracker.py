"""What is known of one watched operation: a fold over its news, without a word of how it looks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from aima_api.cli.progress.event_follower import Away, News
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Operation, Phase, PullProgress
from aima_core.errors import Cancelled, Failure, OperationLost

LINES_KEPT = 12


class OperationTracker:
    def __init__(self, operation: Operation, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.operation = operation
        self.phase = Phase.QUEUED
        self.host: HostName | None = operation.host or operation.route.host
        self.reason: str | None = None
        self.progress: PullProgress | None = None
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.endpoint: str | None = None
        self.away: str | None = None
        self.problem: Exception | None = None
        """Why it can no longer be watched, whatever becomes of the operation."""
        self._failure: Failure | None = None
        self._entered: list[tuple[Phase, datetime]] = [(Phase.QUEUED, operation.created_at)]
        self._newest = operation.created_at
        self._clock = clock
        self._heard_at = clock()

    @property
    def subject(self) -> str:
        return self.operation.service or self.operation.image or self.operation.id

    @property
    def label(self) -> str:
        """What tells it from the others that are watched with it."""
        return self.host or self.operation.id[:8]

    @property
    def ended(self) -> bool:
        return self.phase.state.ended or self.problem is not None

    @property
    def succeeded(self) -> bool:
        return self.phase.state.value == "succeeded"

    @property
    def failure(self) -> Failure:
        """Why it did not succeed."""
        if self._failure is not None:
            return self._failure
        return Cancelled().failure if self.phase is Phase.CANCELLED else OperationLost().failure

    @property
    def total_time(self) -> timedelta:
        return sum((taken for _, taken in self.times()), timedelta())

    def take(self, news: News) -> None:
        if isinstance(news, Away):
            self.away = news.why
            return
        self.away = None
        self._heard_at = self._clock()
        self._newest = max(self._newest, _moment(news))
        self._enter(news.phase, _moment(news))
        self.host = news.host or self.host
        self.progress = news.progress or self.progress
        self.endpoint = news.endpoint or self.endpoint
        self._failure = news.failure or self._failure
        if isinstance(news, Event):
            self.reason = news.message or self.reason
            self.lines.extend(news.lines)
        else:
            self.operation = news
            self.reason = news.reason

    def times(self) -> list[tuple[Phase, timedelta]]:
        """How long each phase took, in order; the present one up to now, by the clock here since the last news."""
        end = self._newest
        if not self.ended:
            end += timedelta(seconds=self._clock() - self._heard_at)
        leaving = [at for _, at in self._entered[1:]] + [end]
        spans: dict[Phase, timedelta] = {}
        for (phase, entered), left in zip(self._entered, leaving, strict=True):
            spans[phase] = spans.get(phase, timedelta()) + max(left - entered, timedelta())
        return [(phase, taken) for phase, taken in spans.items() if not phase.state.ended]

    def _enter(self, phase: Phase, at: datetime) -> None:
        if phase is not self.phase:
            self._entered.append((phase, at))
            self.phase = phase
            self.reason = None


def _moment(news: Event | Operation) -> datetime:
    if isinstance(news, Event):
        return news.at
    return news.ended_at or news.started_at or news.created_at


def share_done(progress: PullProgress) -> float | None:
    """How much of a pull's work is done, from 0 to 1; None while its total is unknown."""
    if not (progress.total_known and progress.total):
        return None
    return min((progress.downloaded + progress.extracted) / (2 * progress.total), 1.0)
