"""Collection of models that nothing uses: garbage collection of the store between two watermarks of free disk.

The least recently used goes first. Never collected are models that a container mounts, whether or not it runs, that a
change may restore, that an operation or a restart uses, pinned ones and running fetches; a use that begins meanwhile
wins the race against a removal. A fetch that lacks space collects first, if that suffices; else nothing is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import structlog

from aima_core.domain.ids import ModelId, OperationId
from aima_core.domain.models import CollectionEntry, Manifest
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import DockerUnavailable, EngineRefused, ModelAbsent, ModelInUse, ModelStoreUnusable
from aima_core.settings import HostSettings, Settings
from aima_core.store.operations import now
from aima_core.system.background import BackgroundLoop
from aima_worker.models.store import ModelStore, StoredPlace, freed_by
from aima_worker.models.uses import RECORDED_EVERY, key_of
from aima_worker.node.disk_guard import disk_levels

COLLECTION_INTERVAL = timedelta(seconds=15)
BELOW = 2
"""Times the reserve of the disk, where no low watermark is set."""
UNTIL = 2
"""Times the low watermark, where no high one is set."""
SETTLES_FOR = timedelta(minutes=10)
"""A model that was published or used since is not collected at the low watermark: its start may be on its way."""
FETCH_ENDS_WITHIN = timedelta(seconds=2)
"""After a cancel."""
INTERRUPTED_FOR = timedelta(days=1)
"""The age at which an interrupted fetch may be collected."""

_log = structlog.get_logger()


class Watermarks(NamedTuple):
    """Bytes of free disk."""

    below: int
    """Less starts a collection."""
    until: int
    """Ends it."""


class Mounted(NamedTuple):
    """A container of this host, or a revision that a change may restore."""

    manifest: Manifest | None
    """None if its labels cannot be read: then it may mount any."""
    by: str
    running: bool = False


class Collected(NamedTuple):
    """A collection that no operation had asked for, to be recorded as one."""

    id: OperationId
    at: datetime
    why: str
    entries: tuple[CollectionEntry, ...]


class _Need(NamedTuple):
    why: str
    wanted: float
    """Bytes to be freed."""
    unused_for: timedelta = timedelta()
    interrupted_for: timedelta = INTERRUPTED_FOR
    dry_run: bool = False
    all_or_nothing: bool = False


def watermarks(settings: HostSettings, total: int) -> Watermarks:
    below = settings.model_collect_below
    low = BELOW * disk_levels(settings, total).reserve if below is None else int(below)
    until = UNTIL * low if settings.model_collect_until is None else int(settings.model_collect_until)
    return Watermarks(low, max(low, until))


class ModelCollector:
    """For several threads; one collection at a time."""

    def __init__(self, store: ModelStore, settings: Settings, *, clock: Callable[[], datetime] = now) -> None:
        self.mounted: Callable[[], Sequence[Mounted]] = tuple
        """Raises DockerUnavailable, EngineRefused; set by the composition root, as is the next one."""
        self.record: Callable[[Collected], object] = lambda _: None
        """Raises BrokerUnavailable; then it is called again. Idempotent."""
        self._store = store
        self._settings = settings.host
        self._clock = clock
        self._collecting = Lock()
        self._unrecorded: list[Collected] = []
        self._loop = BackgroundLoop("model collection", self.run_once, interval=COLLECTION_INTERVAL)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def run_once(self) -> None:
        """Records the models that engines have mounted, and collects below the low watermark.

        Raises DockerUnavailable, EngineRefused, BrokerUnavailable.
        """
        self._record_all()
        if not self._store.places():
            return
        for each in self.mounted():
            if each.running and each.manifest:
                self._store.uses.record(each.manifest, every=RECORDED_EVERY)
        free, marks = self._disk()
        if free < marks.below:
            why = f"{format_size(free)} of disk were free, less than {format_size(marks.below)}"
            self._collect_unasked(_Need(why, marks.until - free, unused_for=SETTLES_FOR))
            self._record_all()

    def make_room(self, model: ModelId, missing: int) -> None:
        """For a fetch that lacks so many bytes: nothing is removed unless that suffices, or while Docker is away."""
        why = f"the fetch of {model} lacked {format_size(missing)} of disk"
        try:
            self._collect_unasked(_Need(why, missing, all_or_nothing=True))
        except (DockerUnavailable, EngineRefused) as failed:
            _log.warning("models not collected", reason=str(failed))

    def collectable(self) -> int:
        """Bytes that a fetch may free. 0 while Docker is away."""
        try:
            entries = self._collect(_Need("", float("inf"), dry_run=True))
        except (DockerUnavailable, EngineRefused):
            return 0
        return sum(each.freed or 0 for each in entries)

    def prune(self, *, all: bool, dry_run: bool) -> tuple[CollectionEntry, ...]:
        """Returns each model with the bytes freed, or why it is kept. Raises DockerUnavailable, EngineRefused."""
        free, marks = self._disk()
        if all:
            need = _Need("prune", float("inf"), interrupted_for=timedelta(), dry_run=dry_run)
        else:
            need = _Need("prune", marks.until - free, dry_run=dry_run)
        return self._collect(need)

    def remove(self, model: ModelId, changes: Mapping[str, int]) -> int:
        """Removes every revision of it; returns the bytes that this frees.

        `changes` were read before its users were looked for. Raises ModelAbsent, ModelStoreUnusable, and ModelInUse
        if a use of it has begun or ended since.
        """
        with self._collecting:
            places = [each for each in self._store.places() if each.manifest.model == model]
            if not places:
                raise ModelAbsent(model=model, where=f"on {self._settings.name}")
            freed = [self._remove(each, changes, within=FETCH_ENDS_WITHIN) for each in places]
        if any(each is not None for each in freed):
            self._store.changed()
        if None in freed:
            users = self._store.uses.users_of_model(model) or ["an operation"]
            raise ModelInUse(model=model, host=self._settings.name, users=", ".join(users))
        return sum(filter(None, freed))

    def _disk(self) -> tuple[int, Watermarks]:
        """Free bytes, and the watermarks of the disk of the store."""
        exists = next(each for each in (self._store.root, *self._store.root.parents) if each.exists())
        usage = shutil.disk_usage(exists)
        return usage.free, watermarks(self._settings, usage.total)

    def _collect_unasked(self, need: _Need) -> None:
        entries = self._collect(need)
        if any(each.kept is None for each in entries):
            self._unrecorded.append(Collected(OperationId.new(), self._clock(), need.why, entries))
            self._loop.wake()  # records it, at once where a fetch has caused it

    def _record_all(self) -> None:
        while self._unrecorded:
            self.record(self._unrecorded[0])
            del self._unrecorded[0]

    def _collect(self, need: _Need) -> tuple[CollectionEntry, ...]:
        with self._collecting:
            changes = self._store.uses.changes()  # first: a later one is noticed at the removal
            places = sorted(self._store.places(), key=self._last_used)
            why_kept = self._reasons(places, need)
            candidates = [each for each in places if each.path not in why_kept]
            if need.all_or_nothing:
                links: dict[tuple[int, int], int] = {}
                if sum(freed_by(each.path, links) for each in candidates) < need.wanted:
                    return ()
            freed = self._remove_while_wanted(candidates, need, changes, why_kept)
            if freed and not need.dry_run:
                self._store.changed()
            return tuple(self._entry(each, freed.get(each.path), why_kept.get(each.path)) for each in places)

    def _remove_while_wanted(
        self, candidates: Sequence[StoredPlace], need: _Need, changes: Mapping[str, int], why_kept: dict[Path, str]
    ) -> dict[Path, int]:
        """Bytes that each removal has freed; adds to the reasons why others are kept."""
        freed: dict[Path, int] = {}
        links: dict[tuple[int, int], int] = {}
        for place in candidates:
            if sum(freed.values()) >= need.wanted:
                why_kept[place.path] = "enough disk is free without it"
            elif need.dry_run:
                freed[place.path] = freed_by(place.path, links)
            elif (removed := self._collect_one(place, need, changes)) is None:
                why_kept[place.path] = "a use of it has begun or ended, or its directory cannot be renamed"
            else:
                freed[place.path] = removed
        return freed

    def _collect_one(self, place: StoredPlace, need: _Need, changes: Mapping[str, int]) -> int | None:
        manifest = place.manifest
        log = _log.bind(model=manifest.model, revision=manifest.revision, why=need.why)
        try:
            freed = self._remove(place, changes)
        except (OSError, ModelStoreUnusable) as failed:
            log.warning("model not collected", reason=str(failed))
            return None
        if freed is not None:
            log.info("model collected", freed=freed)
        return freed

    def _remove(self, place: StoredPlace, changes: Mapping[str, int], *, within: timedelta = timedelta()) -> int | None:
        """The bytes that this frees; None if a use or a fetch of it has begun since. Raises ModelStoreUnusable."""
        with self._store.unless_fetching(place.manifest, within=within) as idle:
            if not idle:
                return None
            away = self._store.uses.unless_used(place.manifest, changes, partial(self._store.withdraw, place.path))
        return None if away is None else self._store.discard(away)

    def _reasons(self, places: Sequence[StoredPlace], need: _Need) -> dict[Path, str]:
        """Why models are kept, by their directories. Raises DockerUnavailable, EngineRefused."""
        mounted, pinned = self.mounted(), self._store.uses.pins()
        found = {}
        for place in places:
            reasons = self._reasons_of(place, need, mounted)
            if why := "pinned" if pinned(place.manifest.model) else next(reasons, None):
                found[place.path] = why
        return found

    def _reasons_of(self, place: StoredPlace, need: _Need, mounted: Sequence[Mounted]) -> Iterator[str]:
        key, idle = key_of(place.manifest), self._clock() - self._last_used(place)
        for each in mounted:
            if each.manifest is None:
                yield f"{each.by} may have it mounted"
            elif key_of(each.manifest) == key:
                yield f"mounted by {each.by}"
        yield from (f"used by {each}" for each in self._store.uses.users_of(key))
        with self._store.unless_fetching(place.manifest) as is_idle:
            if not is_idle:
                yield "being fetched"
        if not place.published and idle < need.interrupted_for:
            yield f"its fetch may be resumed: interrupted {_ago(idle)}"
        if idle < need.unused_for:
            yield f"used or fetched {_ago(idle)}"

    def _last_used(self, place: StoredPlace) -> datetime:
        touched = datetime.fromtimestamp(place.touched_at, UTC)
        used = self._store.uses.last_used(key_of(place.manifest)) if place.published else None
        return max(touched, used or touched)

    def _entry(self, place: StoredPlace, freed: int | None, kept: str | None) -> CollectionEntry:
        manifest = place.manifest
        return CollectionEntry(
            model=manifest.model,
            revision=manifest.revision,
            name=place.path.name,
            size=manifest.size,
            used_at=self._store.uses.last_used(key_of(manifest)) if place.published else None,
            freed=freed,
            kept=kept,
        )


def _ago(age: timedelta) -> str:
    return f"{format_duration(timedelta(seconds=max(0, round(age.total_seconds()))))} ago"
