"""Fence memory: the highest fence that this host has executed for each service, in its state directory.

Redis may lose its data, or forge it: an order below the host's own fence is a replay, and is refused. The file is
replaced before a start executes. One that cannot be written refuses starts, and lets stops proceed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import structlog
from pydantic import ValidationError

from aima_core.domain.ids import OperationId, ServiceId, WireModel
from aima_core.errors import BadId, Superseded
from aima_core.system.state_dir import write_atomically
from aima_core.trust.orders import CLOCK_DIFFERENCE, MAX_EXPIRY, clock_ms
from aima_core.trust.records import SignedRecord
from aima_worker.operations.previous import Candidate, PreviousRevision

MOST_SERVICES = 1000
"""Remembered beside those whose orders may still be valid."""

_log = structlog.get_logger()


class ServiceMemory(WireModel):
    fence: int
    operation: OperationId
    record: SignedRecord | None = None
    """The last verified record of the service."""
    previous: PreviousRevision | None = None
    """The revision to restore if a change fails; None while no change is under way."""
    candidate: Candidate | None = None
    """The instance that is ready here, of a change of several, until the change is made or has failed."""


class FenceMemory:
    """One file per service, all read once. Used by several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = Lock()
        self._known = dict(self._read())

    def advance(self, service: ServiceId, fence: int, operation: OperationId, *, written: bool = True) -> None:
        """An equal fence is accepted for the same operation only. Raises Superseded.

        Raises OSError, and remembers nothing, if it must be `written` and cannot be.
        """
        with self._lock:
            known = self._known.get(service)
            if known and (known.fence > fence or (known.fence == fence and known.operation != operation)):
                raise Superseded(by=f"operation {known.operation} on {service}")
            kept = {"record": known.record, "previous": known.previous, "candidate": known.candidate} if known else {}
            self._store(service, ServiceMemory(fence=fence, operation=operation, **kept), written=written)

    def keep(self, service: ServiceId, record: SignedRecord | None) -> None:
        """Keeps a verified record beside the fence of a service that has one; None drops it. Raises OSError."""
        with self._lock:
            if (known := self._known.get(service)) and known.record != record:
                self._store(service, known.model_copy(update={"record": record}), written=True)

    def remember(
        self, service: ServiceId, previous: PreviousRevision | None, candidate: Candidate | None = None
    ) -> None:
        """Records the revision to restore if the change fails, and its ready candidate; neither once it is settled.

        Raises OSError.
        """
        with self._lock:
            if (known := self._known.get(service)) and (known.previous, known.candidate) != (previous, candidate):
                changed = known.model_copy(update={"previous": previous, "candidate": candidate})
                self._store(service, changed, written=previous is not None or candidate is not None)

    def previous(self, service: ServiceId) -> PreviousRevision | None:
        with self._lock:
            return known.previous if (known := self._known.get(service)) else None

    def candidate(self, service: ServiceId) -> Candidate | None:
        with self._lock:
            return known.candidate if (known := self._known.get(service)) else None

    def fence(self, service: ServiceId) -> int:
        with self._lock:
            return known.fence if (known := self._known.get(service)) else 0

    def changing(self) -> set[ServiceId]:
        """The services that are being changed here."""
        with self._lock:
            return {service for service, known in self._known.items() if known.previous or known.candidate}

    def records(self) -> dict[ServiceId, SignedRecord]:
        with self._lock:
            return {service: known.record for service, known in self._known.items() if known.record}

    def highest(self) -> int:
        with self._lock:
            return max((known.fence for known in self._known.values()), default=0)

    def _store(self, service: ServiceId, memory: ServiceMemory, *, written: bool) -> None:
        if self._known.get(service) == memory and self._file(service).exists():
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._file(service), memory.model_dump_json(exclude_none=True))
        except OSError as failed:
            if written:
                raise
            _log.warning("fence not written", service=service, reason=str(failed))
        self._known[service] = memory
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Of services whose orders have all expired, so that none can be replayed."""
        replayable_from = clock_ms() - int((MAX_EXPIRY + 2 * CLOCK_DIFFERENCE).total_seconds() * 1000)
        surplus = len(self._known) - MOST_SERVICES
        for service in sorted(self._known, key=lambda each: self._known[each].fence)[: max(0, surplus)]:
            if self._known[service].fence < replayable_from:
                self._file(service).unlink(missing_ok=True)
                del self._known[service]

    def _file(self, service: ServiceId) -> Path:
        return self._directory / f"{service}.json"

    def _read(self) -> Iterator[tuple[ServiceId, ServiceMemory]]:
        for file in self._directory.glob("svc-*.json"):
            try:
                yield ServiceId(file.stem), ServiceMemory.model_validate_json(file.read_bytes())
            except (OSError, ValidationError, BadId) as wrong:
                _log.warning("fence not readable", file=str(file), reason=str(wrong))
