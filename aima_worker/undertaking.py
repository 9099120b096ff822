"""One attempt at one operation: what it reports, and how it learns that it shall end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag
from typing import Any, Protocol

from aima_core.failures import AimaError, Cancelled
from aima_core.ids import HostName
from aima_core.operation_store import Claimed, OperationStore, now
from aima_core.operations import Event, Operation, Phase, PullProgress


class HandedOn(Exception):
    """This worker ends; the operation goes back to the queue, and what it has made stays for the next attempt."""


class Lost(Exception):
    """Another attempt has begun, or the record is gone: this one must fall silent and touch nothing more."""


class Closable(Protocol):
    def close(self) -> None: ...


class Undertaking:
    def __init__(self, claimed: Claimed, *, host: HostName, operations: OperationStore) -> None:
        self.claimed = claimed
        self.host = host
        self.phase = Phase.QUEUED
        self._operations = operations
        self._ending: type[AimaError | HandedOn | Lost] | None = None
        self._woken = Flag()
        self._closed_at_end: list[Closable] = []

    @property
    def operation(self) -> Operation:
        return self.claimed.record

    # What it reports

    def enter(self, phase: Phase, message: str | None = None, **more: Any) -> None:
        """Tell that a phase has begun; `more` are further fields of the event."""
        self.go_on()
        self.phase = phase
        self._record(message=message, **more)

    def report(self, progress: PullProgress) -> None:
        self._record(progress=progress)

    def mention(self, message: str) -> None:
        """Tell in a sentence what is being waited for, or has been noticed."""
        self._record(message=message)

    def quote(self, lines: tuple[str, ...]) -> None:
        """Pass on what the container has said."""
        self._record(lines=lines)

    def end(self, phase: Phase, **more: Any) -> None:
        """Tell the end. Does nothing if the operation has ended otherwise meanwhile."""
        self.phase = phase
        event = Event(operation=self.operation.id, at=now(), phase=phase, host=self.host, **more)
        self._operations.record(event, attempt=self.claimed.attempt)

    def _record(self, **more: Any) -> None:
        event = Event(operation=self.operation.id, at=now(), phase=self.phase, host=self.host, **more)
        if not self._operations.record(event, attempt=self.claimed.attempt):
            self.interrupt(Lost)
            self.go_on()

    # How it learns that it shall end

    def interrupt(self, why: type[AimaError | HandedOn | Lost] = Cancelled) -> None:
        """Make it end soon, from any thread: what it waits for is cut short.

        The first reason given counts, but for Lost, since nothing may be cleared away that is another attempt's now.
        """
        if self._ending is None or why is Lost:
            self._ending = why
        self._woken.set()
        for waited_for in list(self._closed_at_end):
            waited_for.close()

    @property
    def interrupted(self) -> bool:
        return self._ending is not None

    def go_on(self) -> None:
        """Return if it may go on. Raises Cancelled, HandedOn or Lost."""
        if self._ending is not None:
            raise self._ending()

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond being interrupted. Raises as `go_on` does."""
        self._woken.wait(seconds)
        self.go_on()

    @contextmanager
    def closing(self, waited_for: Closable) -> Iterator[None]:
        """While inside, an interruption closes what is waited for, and leaving closes it in any case."""
        self._closed_at_end.append(waited_for)
        try:
            self.go_on()
            yield
        finally:
            self._closed_at_end.remove(waited_for)
            waited_for.close()
