"""Ensures a model's files on this host, for a pull or a start. Concurrent operations share one fetch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aima_core.domain.models import FetchProgress, Manifest
from aima_core.domain.operations import Phase, PullModel
from aima_core.domain.units import counted, format_size
from aima_core.settings import Settings
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.models.fetch import FetchOrder, ModelFetch
from aima_worker.models.sharing import Neighbours
from aima_worker.models.store import ModelStore
from aima_worker.transfers import SharedTransfers


class FetchCoordinator:
    """One fetch per content on this host: concurrent starts and pulls join it, and a retry of an operation, too."""

    def __init__(self, store: ModelStore, settings: Settings, neighbours: Neighbours | None = None) -> None:
        self._store = store
        self._neighbours = neighbours
        self._settings = settings
        self._fetches = SharedTransfers[FetchProgress]("fetch")

    def follow(self, order: FetchOrder, attempt: Attempt) -> Iterator[FetchProgress]:
        """Joins the model's fetch, or starts it; yields its progress and ends when the model is published.

        Raises what the fetch raises, and at once what cancels the attempt.
        """
        start: Callable[[], ModelFetch] = lambda: ModelFetch(  # noqa: E731
            self._store, order, self._settings, self._neighbours
        )
        return self._fetches.follow(order.manifest.digest, attempt, start)


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
