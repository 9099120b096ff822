"""What the guards of memory and disk share: readings of the last minutes, and the reasons of their kills.

A guard records its reason before it kills, so that the reconciler restarts nothing that was killed; the reason is kept
until the next start of that instance.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from aima_core.domain.ids import InstanceId
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import AimaError, ContainerExited, OutOfMemory

SERIES_INTERVAL, SERIES = timedelta(seconds=1), 300
"""Readings that are kept for the reason."""
QUOTED_AGES = tuple(timedelta(seconds=each) for each in (240, 120, 60, 30, 10, 5, 2))


class Violations:
    """Why a guard has killed instances since their last start."""

    def __init__(self) -> None:
        self._reasons: dict[InstanceId, AimaError] = {}

    def of(self, instance: InstanceId) -> AimaError | None:
        return self._reasons.get(instance)

    def record(self, instance: InstanceId, reason: AimaError) -> None:
        self._reasons[instance] = reason

    def discard(self, instance: InstanceId) -> None:
        """Nothing was killed, or it is started again."""
        self._reasons.pop(instance, None)

    @contextmanager
    def raised(self, instance: InstanceId) -> Iterator[None]:
        """While inside, the instance loads. Raises the reason if a guard has killed it."""
        self.discard(instance)
        try:
            yield
        except (ContainerExited, OutOfMemory) as exited:
            if reason := self._reasons.pop(instance, None):
                reason.remember(exited.failure.log_tail)
                raise reason from exited
            raise
        if reason := self._reasons.pop(instance, None):  # race: it became ready just then
            raise reason


class TimedReading(Protocol):
    @property
    def at(self) -> float:
        """Monotonic seconds."""
        ...

    @property
    def available(self) -> int:
        """Bytes."""
        ...


R = TypeVar("R", bound=TimedReading)


class Series(Generic[R]):
    def __init__(self) -> None:
        self._readings: deque[R] = deque(maxlen=SERIES)

    def add(self, reading: R) -> None:
        """Unless the latest one is younger than SERIES_INTERVAL."""
        if not self._readings or reading.at - self._readings[-1].at >= SERIES_INTERVAL.total_seconds():
            self._readings.append(reading)

    def before(self, reading: R, age: timedelta) -> R | None:
        older = (each for each in reversed(self._readings) if reading.at - each.at >= age.total_seconds())
        return next(older, None)

    def lost(self, reading: R, window: timedelta) -> int:
        """Bytes lost since the best moment of the window."""
        since = reading.at - window.total_seconds()
        return max((each.available for each in self._readings if each.at >= since), default=0) - reading.available

    def quoted(self, reading: R) -> str:
        earlier = [(age, found) for age in QUOTED_AGES if (found := self.before(reading, age))]
        quoted = [f"{format_size(found.available)} {format_duration(age)} before" for age, found in earlier]
        return ", ".join([*quoted, f"{format_size(reading.available)} then"])

    def __len__(self) -> int:
        return len(self._readings)
