"""Ensures a model's files on this host, for a pull or a start. Concurrent operations share one fetch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import structlog

from aima_core.domain.models import FetchProgress, Manifest, ModelDisk
from aima_core.domain.operations import Phase, PullModel
from aima_core.domain.units import counted, format_size
from aima_core.settings import Settings
from aima_core.system.state_dir import write_atomically
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.models.directory import OpenDirectory
from aima_worker.models.fetch import FetchOrder, ModelFetch
from aima_worker.models.sharing import Neighbours
from aima_worker.models.store import ModelStore
from aima_worker.node.disk_guard import disk_levels
from aima_worker.transfers import RATE_NEEDS, SharedTransfers

RATE_FILE = "fetch-rate"
"""Below the state directory."""

_log = structlog.get_logger()


class FetchCoordinator:
    """One fetch per content on this host: concurrent starts and pulls join it, and a retry of an operation, too."""

    def __init__(
        self,
        store: ModelStore,
        settings: Settings,
        neighbours: Neighbours | None = None,
        *,
        open_directory: OpenDirectory,
    ) -> None:
        self._rate_file = settings.state_dir.expanduser() / RATE_FILE
        self.rate = _recorded_rate(self._rate_file)
        """Bytes per second of the last fetch, from its beginning; None before the host's first one."""
        self.measured: ModelDisk | None = None
        """None before the disk was measured, and if it could not be."""
        self._store = store
        self._neighbours = neighbours
        self._settings = settings
        self._open_directory = open_directory
        self._fetches = SharedTransfers[FetchProgress]("fetch")

    @property
    def disk(self) -> ModelDisk | None:
        """As last measured, with the fetches that have begun since; None if it could not be measured."""
        found = self.measured
        return found and found.model_copy(update={"awaited": max(found.awaited, self._store.awaited())})

    def measure_disk(self) -> ModelDisk | None:
        """Called in a thread of its own: the disk of a network may not answer."""
        awaited = self._store.awaited()  # before the disk is read: bytes written in between count twice, and never not
        try:
            usage = shutil.disk_usage(existing(self._store.root))
        except OSError:
            self.measured = None
        else:
            reserve = disk_levels(self._settings.host, usage.total).reserve
            self.measured = ModelDisk(total=usage.total, free=usage.free, reserve=reserve, awaited=awaited)
        return self.measured

    def follow(self, order: FetchOrder, attempt: Attempt) -> Iterator[FetchProgress]:
        """Joins the model's fetch, or starts it; yields its progress and ends when the model is published.

        Raises what the fetch raises, and at once what cancels the attempt.
        """
        start: Callable[[], ModelFetch] = lambda: ModelFetch(  # noqa: E731
            self._store, order, self._settings, self._neighbours, open_directory=self._open_directory
        )
        began: tuple[float, int] | None = None
        measured = False
        try:
            for progress in self._fetches.follow(order.manifest.digest, attempt, start):
                at, received = began = began or (time.monotonic(), progress.received)
                span, more = time.monotonic() - at, progress.received - received
                if more and span >= RATE_NEEDS.total_seconds():
                    self.rate, measured = more / span, True
                yield progress
        finally:
            if measured:
                self._record_rate()

    def _record_rate(self) -> None:
        """For the next worker of this host, whose fetches `aima plan` estimates before its first one."""
        try:
            self._rate_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._rate_file, f"{self.rate}\n")
        except OSError as failed:  # such as a full disk
            _log.warning("fetch rate not recorded", file=str(self._rate_file), reason=str(failed))


def _recorded_rate(file: Path) -> float | None:
    """None if there is none, or an unreadable one."""
    try:
        rate = float(file.read_text())
    except (OSError, ValueError):
        return None
    return rate if 0 < rate < inf else None


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists: the store is made by the first fetch."""
    return path if path.exists() or path == path.parent else existing(path.parent)


def pull_model(host: HostContext, attempt: Attempt, command: PullModel) -> None:
    """Raises what `fetch_model` raises."""
    manifest = command.manifest
    with host.models.uses.using(manifest, f"operation {attempt.operation.id}"):
        fetch_model(host, attempt, manifest, token=command.token)
    files = counted(len(manifest.files), "file")
    outcome = f"{manifest.model} at {manifest.revision[:12]} is on {host.name}"
    attempt.finish(Phase.PULLED, message=f"{outcome} ({files}, {format_size(manifest.size)}, verified).")


def fetch_model(host: HostContext, attempt: Attempt, manifest: Manifest, *, token: str | None) -> None:
    """Idempotent: does nothing if it is published. Raises SecretMissing, SecretUnsafe, and as a fetch does."""
    if host.models.find(manifest):
        return
    source = f"{manifest.source.partition('#')[0]} ({manifest.revision[:12]})"
    attempt.enter_phase(Phase.FETCHING, f"Fetching {manifest.model} from {source}")
    order = FetchOrder(manifest, host.secrets.token(token) if token else None)
    waits_for = notice = None
    for progress in host.fetches.follow(order, attempt):
        attempt.report(fetch=progress)
        if progress.waits_for and progress.waits_for != waits_for:
            attempt.report(f"Waiting for {progress.waits_for}.")
        if progress.notice and progress.notice != notice:
            attempt.report(progress.notice)
        waits_for, notice = progress.waits_for, progress.notice
