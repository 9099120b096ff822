"""Snapshot of one watched operation, folded from its event subscription, and the texts for its times, sizes and end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from aima_api.cli.progress.event_follower import ConnectionLost, Update
from aima_core.domain.ids import HostName
from aima_core.domain.models import FetchProgress
from aima_core.domain.operations import Event, Kind, LayerStep, Operation, Phase, PullProgress
from aima_core.domain.units import format_size
from aima_core.errors import Cancelled, Failure, OperationLost

LINES_KEPT = 200
"""More than a failure's log tail has, which is compared with them."""


class OperationTracker:
    def __init__(self, operation: Operation, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.operation = operation
        self.phase = Phase.QUEUED
        self.host: HostName | None = operation.host or operation.route.host
        self.reason: str | None = None
        self.progress: PullProgress | None = None
        self.fetch: FetchProgress | None = None
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        """The engine's log lines of the loading phase."""
        self.endpoint: str | None = None
        self.connection_lost: str | None = None
        self.error: Exception | None = None
        """Why the subscription ended, such as a reconnect timeout; the operation may continue."""
        self.layer_times: dict[str, timedelta] = {}
        """Time from a layer's first to its last byte, of finished layers."""
        self._layers_began: dict[str, datetime] = {}
        self._failure: Failure | None = None
        self._entered: list[tuple[Phase, datetime]] = [(Phase.QUEUED, operation.created_at)]
        self._latest = operation.created_at
        self._clock = clock
        self._received_at = clock()

    @property
    def label(self) -> str:
        """Distinguishes it from the operations that are watched concurrently."""
        return self.host or self.operation.id[:8]

    @property
    def title(self) -> str:
        """`svc-asr-x on spark-01`."""
        it = self.operation
        subject = it.service or it.image or it.model or ("models" if it.kind is Kind.PRUNE_MODELS else it.id)
        return f"{subject} on {self.host}" if self.host else subject

    @property
    def ended(self) -> bool:
        return self.phase.state.ended or self.error is not None

    @property
    def succeeded(self) -> bool:
        return self.phase.state.value == "succeeded"

    @property
    def failure(self) -> Failure:
        """Why it did not succeed."""
        if self._failure is not None:
            return self._failure
        return Cancelled().failure if self.phase is Phase.CANCELLED else OperationLost().failure

    def apply(self, update: Update) -> None:
        if isinstance(update, ConnectionLost):
            self.connection_lost = update.reason
            return
        at = update.at if isinstance(update, Event) else update.ended_at or update.started_at or update.created_at
        self.connection_lost = None
        self._received_at = self._clock()
        self._latest = max(self._latest, at)
        self._enter(update.phase, at)
        self.host = update.host or self.host
        self.endpoint = update.endpoint or self.endpoint
        self._failure = update.failure or self._failure
        if update.progress is not None:
            self.progress = update.progress
            self._time_layers(update.progress, at)
        self.fetch = update.fetch or self.fetch
        if isinstance(update, Event):
            self.reason = update.message or self.reason
            self.lines.extend(update.lines)
        else:
            self.operation = update
            self.reason = update.reason

    def times(self) -> list[tuple[Phase, timedelta]]:
        """Duration of each phase, in order; the present one extended by this clock since the last update."""
        end = self._latest
        if not self.ended:
            end += timedelta(seconds=self._clock() - self._received_at)
        leaving = [at for _, at in self._entered[1:]] + [end]
        durations: dict[Phase, timedelta] = {}
        for (phase, entered), left in zip(self._entered, leaving, strict=True):
            durations[phase] = durations.get(phase, timedelta()) + max(left - entered, timedelta())
        return [(phase, duration) for phase, duration in durations.items() if not phase.state.ended]

    def _enter(self, phase: Phase, at: datetime) -> None:
        if phase is not self.phase:
            self._entered.append((phase, at))
            self.phase = phase
            self.reason = None

    def _time_layers(self, progress: PullProgress, at: datetime) -> None:
        for layer in progress.layers:
            if layer.step is LayerStep.EXISTS or layer.id in self.layer_times:
                continue
            if layer.step is LayerStep.DONE:  # one never seen downloading began at the earliest with the phase
                self.layer_times[layer.id] = at - self._layers_began.get(layer.id, self._entered[-1][1])
            elif layer.step is not LayerStep.WAITING:
                self._layers_began.setdefault(layer.id, at)


def fraction_done(progress: PullProgress | FetchProgress) -> float | None:
    """Of the work of a pull or a fetch, from 0 to 1; None while its total is unknown."""
    if isinstance(progress, FetchProgress):
        return progress.received / progress.total if progress.total else None
    if not (progress.total_known and progress.total):
        return None
    return min((progress.downloaded + progress.extracted) / (2 * progress.total), 1.0)


def percent(progress: PullProgress | FetchProgress) -> str:
    fraction = fraction_done(progress)
    return "" if fraction is None else f"{fraction:.0%}"


def amounts(progress: PullProgress) -> str:
    """`12 MB of ≥ 98 MB downloaded, 3 MB extracted`."""
    return f"{downloaded(progress)}, {format_size(progress.extracted)} extracted"


def downloaded(progress: PullProgress) -> str:
    if not progress.total:
        total = "an unknown total"
    else:
        total = format_size(progress.total) if progress.total_known else f"≥ {format_size(progress.total)}"
    restarts = f" (restarted {progress.restarts} ×)" if progress.restarts else ""
    return f"{format_size(progress.downloaded)} of {total} downloaded{restarts}"


def fetched(progress: FetchProgress) -> str:
    """`12 MB of 98 MB received, 4 MB from other hosts, 8 MB verified, 1 of 4 files`."""
    received = f"{format_size(progress.received)} of {format_size(progress.total)} received"
    others = f", {from_others(progress)}" if progress.from_hosts else ""
    done = f"{progress.files_done} of {progress.files} files"
    return f"{received}{others}, {format_size(progress.verified)} verified, {done}"


def from_others(progress: FetchProgress) -> str:
    """`4 MB from other hosts`; empty without any."""
    return f"{format_size(progress.from_hosts)} from other hosts" if progress.from_hosts else ""


def rate(progress: PullProgress | FetchProgress) -> str:
    """`4.1 MB/s, 21 s left`, as far as known."""
    speed = f"{format_size(progress.rate)}/s" if progress.rate else ""
    left = f"{readable(progress.eta)} left" if progress.eta is not None else ""
    return joined(speed, left)


def joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def readable(duration: timedelta) -> str:
    """`0.3 s`, `42 s`, `3 min 20 s`, `1 h 5 min`."""
    seconds = duration.total_seconds()
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
