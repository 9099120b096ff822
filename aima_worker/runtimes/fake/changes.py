"""What happens to the containers of the fake runtime, told as it happens. One thread iterates it, any may close it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from threading import Condition

from aima_worker.runtime import ContainerSpec


class FakeChanges:
    """A ChangeStream."""

    def __init__(
        self,
        changed: Condition,
        happened: list[ContainerSpec],
        *,
        labels: Mapping[str, str],
        is_away: Callable[[], bool],
    ) -> None:
        """`happened` grows at its end, whenever something happens to a container, by what that is made from."""
        self._changed = changed
        self._happened = happened
        self._labels = labels
        self._is_away = is_away
        self._heard = len(happened)
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        while specs := self._next():
            yield from {spec.name for spec in specs if self._labels.items() <= spec.labels.items()}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> list[ContainerSpec]:
        """What happened since this was last asked; nothing once it is closed, or the engine is away."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_away() or len(self._happened) > self._heard)
            if self._closed or self._is_away():
                return []
            specs = self._happened[self._heard :]
            self._heard += len(specs)
        return specs
