"""The fake runtime of a fleet's hosts: it counts containers, and can keep them.

Kept in a file, containers outlive the process as real ones outlive a worker: the next process finds them running
since their first start.
"""

from __future__ import annotations

import json
import pickle
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aima_worker.runtime import Container, ContainerSpec
from aima_worker.runtimes.fake.runtime import FakeRuntime


def wall_clock() -> datetime:
    return datetime.now(UTC)


class FleetRuntime(FakeRuntime):
    """A ContainerRuntime that counts created containers."""

    def __init__(self, *, kept_in: Path | None = None, **facts: Any) -> None:
        super().__init__(now=wall_clock, **facts)
        self.made: Counter[str] = Counter()
        """How often a container of each name was created, adoptions not counted."""
        self.created: list[dict[str, Any]] = []
        """What each container was created with, by this process."""
        self._kept_in = kept_in
        if kept_in is not None and kept_in.exists():
            self._engines, self._images, self.made = pickle.loads(kept_in.read_bytes())

    def run(self, spec: ContainerSpec) -> Container:
        with self._changed:
            before = self._engines.get(spec.name)
            running = super().run(spec)
            if before is None or before.id != running.id:
                self.made[spec.name] += 1
                self.created.append(_created(spec))
            self._keep()
        return running

    def end(self, name: str, **how: Any) -> None:
        super().end(name, **how)
        self._keep()

    def remove(self, name: str, **how: Any) -> None:
        super().remove(name, **how)
        self._keep()

    def made_so_far(self) -> dict[str, int]:
        with self._changed:
            return dict(self.made)

    def running(self) -> list[str]:
        with self._changed:
            return sorted(name for name, engine in self._engines.items() if engine.running)

    def standing(self) -> list[tuple[str, str, int]]:
        """Every container, also while the engine is unavailable: name, status, port."""
        with self._changed:
            stand = [engine.as_container() for engine in self._engines.values()]
            return [(each.name, str(each.status), next(iter(each.host_ports.values()), 0)) for each in stand]

    def _keep(self) -> None:
        if self._kept_in is None:
            return
        with self._changed:
            fresh = self._kept_in.with_suffix(".new")
            fresh.write_bytes(pickle.dumps((self._engines, self._images, self.made)))
            fresh.replace(self._kept_in)


def _created(spec: ContainerSpec) -> dict[str, Any]:
    return {
        "operation": json.loads(spec.labels.get("aima.order", "{}")).get("operation"),
        "service": spec.labels.get("aima.service"),
        "image": spec.image,
        "command": spec.command,
        "mounts": [mount.source for mount in spec.mounts],
        "at": time.time(),
    }


def kept_running(file: Path) -> tuple[list[str], Mapping[str, int]]:
    """The running containers of a runtime without a process, and how often each was created."""
    if not file.exists():
        return [], {}
    room = FleetRuntime(kept_in=file)
    return room.running(), room.made
