"""Uses of the models in a store: operations and restarts of this worker, pins, and when an engine had each mounted.

Pins and times are kept in one file of the store, which is replaced atomically: they survive a restart of the worker and
the loss of Redis. A use begins before the model's directory is looked up and ends after its container exists, so that a
removal that finds none, and no container, takes no directory from a start (race).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

import structlog
from pydantic import AwareDatetime, ValidationError

from aima_core.domain.ids import ModelId, WireModel
from aima_core.domain.models import Manifest
from aima_core.store.operations import now
from aima_core.system.state_dir import write_atomically

FILE = ".uses.json"
RECORDED_EVERY = timedelta(minutes=5)
"""While an engine is seen running."""
T = TypeVar("T")

_log = structlog.get_logger()


class Named(Protocol):
    @property
    def model(self) -> ModelId: ...

    @property
    def name(self) -> str: ...


def key_of(stored: Named) -> str:
    """Of one revision: its directory below the store."""
    return f"{stored.model}/{stored.name}"


class _Recorded(WireModel):
    """What the file holds."""

    pinned: tuple[ModelId, ...] = ()
    used: Mapping[str, AwareDatetime] = {}


class ModelUses:
    """For several threads."""

    def __init__(self, root: Path, *, clock: Callable[[], datetime] = now) -> None:
        self._file = root / FILE
        self._clock = clock
        self._lock = Lock()
        self._users: dict[str, list[str]] = {}
        self._changes = Counter[str]()
        """Uses that have begun or ended since the worker started."""
        self._recorded, self._readable = self._read()

    # Uses ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def using(self, manifest: Manifest, by: str) -> Iterator[None]:
        """While inside, no removal takes the model's directory, or the pieces of its fetch."""
        key = key_of(manifest)
        with self._lock:
            self._changes[key] += 1
            self._users.setdefault(key, []).append(by)
        try:
            yield
        finally:
            with self._lock:
                self._users[key].remove(by)
                self._changes[key] += 1  # race: its container may have been created after a removal had listed them

    def begin(self, manifest: Manifest) -> None:
        """It is used from now on by what a removal may not have looked at, such as a remembered revision (race)."""
        with self._lock:
            self._changes[key_of(manifest)] += 1

    def users_of(self, key: str) -> list[str]:
        with self._lock:
            return list(self._users.get(key, ()))

    def users_of_model(self, model: ModelId) -> list[str]:
        """Of any of its revisions."""
        with self._lock:
            return [by for key, users in self._users.items() if key.startswith(f"{model}/") for by in users]

    def changes(self) -> Mapping[str, int]:
        """The changes of the uses of each model, to be read before its users are looked for."""
        with self._lock:
            return dict(self._changes)

    def unless_used(self, stored: Named, changes: Mapping[str, int], remove: Callable[[], T]) -> T | None:
        """The result of `remove`, during which no use begins; None if one has begun or ended since, or it is pinned."""
        key = key_of(stored)
        with self._lock:
            if self._users.get(key) or self._changes[key] != changes.get(key, 0) or self._is_pinned(stored.model):
                return None
            return remove()

    # Times and pins -----------------------------------------------------------------------------------------------

    def record(self, manifest: Manifest, *, every: timedelta = timedelta()) -> None:
        """An engine has it mounted now. Not written again within `every`, nor for a model that is not published."""
        key, at = key_of(manifest), self._clock()
        with self._lock:
            known = self._recorded.used.get(key)
            if (known and at - known < every) or not (self._file.parent / key).is_dir():
                return
            used = {each: when for each, when in self._recorded.used.items() if (self._file.parent / each).is_dir()}
            self._recorded = self._recorded.model_copy(update={"used": used | {key: at}})
            if not self._readable:
                return  # pins that can be repaired stay in the file
            try:
                write_atomically(self._file, self._recorded.model_dump_json())
            except OSError as failed:  # such as a full disk
                _log.warning("use of a model not recorded", model=manifest.model, reason=str(failed))

    def last_used(self, key: str) -> datetime | None:
        with self._lock:
            return self._recorded.used.get(key)

    def pins(self) -> Callable[[ModelId], bool]:
        """Whether a model is pinned, of a snapshot. Every model is while the file cannot be read."""
        with self._lock:
            pinned, readable = frozenset(self._recorded.pinned), self._readable
        return lambda model: not readable or model in pinned

    def pin(self, model: ModelId, *, pinned: bool) -> None:
        """Raises OSError; then nothing has changed."""
        with self._lock:
            if self._readable and (model in self._recorded.pinned) is pinned:
                return
            others = [each for each in self._recorded.pinned if each != model]
            changed = self._recorded.model_copy(update={"pinned": tuple(sorted([*others, *([model] * pinned)]))})
            write_atomically(self._file, changed.model_dump_json())
            self._recorded, self._readable = changed, True

    def _is_pinned(self, model: ModelId) -> bool:
        return not self._readable or model in self._recorded.pinned

    def _read(self) -> tuple[_Recorded, bool]:
        """Unreadable, every model counts as pinned, until a pin is set or removed."""
        try:
            return _Recorded.model_validate_json(self._file.read_bytes()), True
        except FileNotFoundError:
            return _Recorded(), True
        except (OSError, ValidationError) as wrong:
            _log.error("pins of models not readable", file=str(self._file), reason=str(wrong))
            return _Recorded(), False
