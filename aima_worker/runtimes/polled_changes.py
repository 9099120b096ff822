"""Changes for runtimes that tell of none: the listing is read again and again, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event as Flag

from aima_worker.runtime import Container, Status

POLL_SECONDS = 0.5


class PolledChanges:
    """A ChangeStream. Iterated by one thread, closed by any."""

    def __init__(self, listed: Callable[[], list[Container]]) -> None:
        self._listed = listed
        self._closed = Flag()
        self._known = self._snapshot()

    def __iter__(self) -> Iterator[str]:
        while not self._closed.wait(POLL_SECONDS):
            before, self._known = self._known, self._snapshot()
            yield from {name for name, _, _ in before ^ self._known}

    def close(self) -> None:
        self._closed.set()

    def _snapshot(self) -> set[tuple[str, str, Status]]:
        return {(container.name, container.id, container.status) for container in self._listed()}
