"""The whereabouts of a service: its current spec and its candidate, its instances, and its active starts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aima_core.domain.ids import HostName, InstanceId, OperationId, ServiceId
from aima_core.domain.operations import Operation, StartService
from aima_core.domain.services import Instance
from aima_core.errors import OperationInProgress, UnknownService, UnverifiedService
from aima_core.redis.scripts import pairs
from aima_core.store.operation_records import operation_from
from aima_core.store.readable import readable
from aima_core.trust.records import SignedService

Stored = SignedService | UnverifiedService


def verified(id: ServiceId, stored: Stored | None) -> SignedService:
    """Raises UnknownService, UnverifiedService."""
    if stored is None:
        raise UnknownService(service=id)
    if isinstance(stored, UnverifiedService):
        raise stored
    return stored


class ActiveStart(NamedTuple):
    operation: Operation
    command: StartService


class Whereabouts(NamedTuple):
    stored: SignedService | UnverifiedService | None
    """Its spec, or why that is not used; None if there is none."""
    hosts: list[HostName]
    """Those where it runs, then those where it has stopped."""
    wanted: dict[HostName, Instance | None]
    """Those where it is desired to run, with its instance there; None if its record is unreadable."""
    starts: list[ActiveStart]
    """Active starts in the order of their fences."""
    candidate: SignedService | None = None
    """The spec that the last of the starts makes the current one; None if none changes it."""

    @property
    def service(self) -> SignedService | None:
        """Its spec; None if there is none. Raises UnverifiedService."""
        if isinstance(self.stored, UnverifiedService):
            raise self.stored
        return self.stored

    def check_no_candidate(self) -> None:
        """Raises OperationInProgress while a start changes the spec, which one stored concurrently would lose."""
        if self.candidate:
            start = self.starts[-1].operation
            raise OperationInProgress(what=self.candidate.spec.id, operation=start.id)

    @property
    def differs(self) -> bool:
        """Whether an instance runs another revision than the current one."""
        current, running = self._current_revision, [each.revision for each in self.wanted.values() if each]
        return current is not None and any(each not in (None, current) for each in running)

    def is_ahead(self, instance: Instance) -> bool:
        """Whether it runs a revision that has not become the current one."""
        current = self._current_revision
        return current is not None and instance.revision is not None and instance.revision > current

    @property
    def _current_revision(self) -> int | None:
        return self.stored.spec.revision if isinstance(self.stored, SignedService) else None


def whereabouts(current: Stored | None, found_in: Sequence[Any], verify: Callable[[str, str], Stored]) -> Whereabouts:
    """From the reply of `services/placements` after the record; `verify` reads a spec."""
    known, wanted, starts = found_in
    hosts, active = _hosts_of(_lines(known)), _starts(starts)
    found = Whereabouts(current, [*hosts.values()], _wanted(_lines(wanted), hosts), active)
    signed = active[-1].command.spec if active else None
    candidate = verify(active[-1].command.service, signed.model_dump_json()) if signed else None
    if isinstance(current, UnverifiedService) or not isinstance(candidate, SignedService):
        return found
    is_newer = current is None or candidate.spec.version > current.spec.version
    return found._replace(candidate=candidate if is_newer else None)


def _wanted(lines: Iterable[str], hosts: Mapping[str, HostName]) -> dict[HostName, Instance | None]:
    records = (line.partition(" ") for line in lines)
    found = {id: readable("instance", id, Instance.model_validate_json, record) for id, _, record in records}
    return {hosts[id]: instance for id, instance in found.items() if id in hosts}


def _starts(flat: Sequence[Any]) -> list[ActiveStart]:
    records = zip(flat[::2], flat[1::2], strict=True)
    found = (readable("operation", id, _active_start, id, pairs(fields)) for id, fields in records)
    return sorted((each for each in found if each), key=lambda start: start.operation.fence)


def _active_start(id: str, fields: Mapping[str, str]) -> ActiveStart:
    command = StartService.model_validate_json(fields["command"])
    return ActiveStart(operation_from(OperationId(id), fields), command)


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []


def _hosts_of(instances: Iterable[str]) -> dict[str, HostName]:
    """By the id of the instance; without those that are no ids."""
    found = (readable("instance", each, InstanceId, each) for each in instances)
    return {id: id.host for id in found if id}
