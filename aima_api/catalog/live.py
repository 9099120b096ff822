"""The catalog of a running API node: its overlay is read again when a file changes, on SIGHUP, and on request.

With a mistake in any file, the previous catalog stays in force; the mistakes are logged once and reported until they
are fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock

import structlog

from aima_api.catalog.loader import load_catalog
from aima_api.catalog.selection import Catalog
from aima_api.catalog.yaml_source import yaml_files
from aima_core.errors import CatalogMistake
from aima_core.system.background import BackgroundLoop

WATCH_INTERVAL = timedelta(seconds=2)

_log = structlog.get_logger()

Stamp = frozenset[tuple[Path, int, int, int]]
"""Of every file: its inode, time and size."""


@dataclass(frozen=True)
class CatalogStatus:
    engines: int
    models: int
    profiles: int
    overlay: str | None
    """The directory that overlays the shipped catalog."""
    mistakes: str
    """Why the newest files are not in force, one mistake a line; empty if they are."""


class LiveCatalog:
    """`current` is replaced as a whole: a request reads it once and never sees half of a change."""

    def __init__(self, overlay: Path | None = None) -> None:
        """Raises CatalogMistake: a node starts with a valid catalog only."""
        self._overlay = overlay
        self._stamp: Stamp | None = _stamp_of(overlay)
        self._mistakes = ""
        self._reloading = Lock()
        self.current: Catalog = self._load()
        self.loop = BackgroundLoop("catalog", self.reload_changed, interval=WATCH_INTERVAL, immediately=False)

    def reload_changed(self) -> None:
        if (stamp := _stamp_of(self._overlay)) != self._stamp:
            self._reload(stamp)

    def request_reload(self) -> None:
        """Has the next pass reload whether or not a file has changed. For signal handlers: takes no lock."""
        self._stamp = None

    def reload(self) -> CatalogStatus:
        """Reads the files now, whether they have changed or not."""
        return self._reload(_stamp_of(self._overlay))

    def status(self) -> CatalogStatus:
        catalog, overlay = self.current, str(self._overlay) if self._overlay else None
        numbers = len(catalog.engines), len(catalog.models), len(catalog.profiles)
        return CatalogStatus(*numbers, overlay=overlay, mistakes=self._mistakes)

    def _reload(self, stamp: Stamp) -> CatalogStatus:
        with self._reloading:
            self._stamp = stamp  # of before the reading: a later change is noticed by the next pass
            try:
                self.current, self._mistakes = self._load(), ""
                _log.info("catalog reloaded", engines=len(self.current.engines), models=len(self.current.models))
            except CatalogMistake as wrong:
                self._mistakes = str(wrong.facts["mistakes"])
                _log.error("catalog reload failed", reason=self._mistakes)
            return self.status()

    def _load(self) -> Catalog:
        return load_catalog(*([self._overlay] if self._overlay else []))


def _stamp_of(overlay: Path | None) -> Stamp:
    found = set()
    for file in yaml_files(overlay) if overlay else ():
        try:
            status = file.stat()
        except OSError:
            continue  # race: removed, or a dangling link: its absence is the change
        found.add((file, status.st_ino, status.st_mtime_ns, status.st_size))
    return frozenset(found)
