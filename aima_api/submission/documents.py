"""Applies documents: all are planned from one snapshot by the code of starts, and refused before anything is written.

Then the services are started together, and the rest is written. Applying again does what a crash left undone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from aima_api.planning.merge import Difference, differences
from aima_api.planning.preview import PlannedInstance
from aima_api.planning.steps import Action
from aima_api.specs.documents import SpecDocument
from aima_core.domain.operations import Operation
from aima_core.errors import DocumentsRefused, Failure, InvalidRequest, PlanChanged
from aima_core.trust.orders import Mandate

MOST_REFUSALS = 5
"""Named in one failure."""


class ChangeKind(StrEnum):
    UNCHANGED = "unchanged"
    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"
    """Its owner applied it before, and no document names it."""
    REFUSED = "refused"


class FieldChange(BaseModel):
    field: str
    before: Any
    after: Any


class Change(BaseModel):
    """What one document would do."""

    kind: str
    name: str
    action: ChangeKind
    fields: tuple[FieldChange, ...] = ()
    """Of the stored record."""
    instances: tuple[PlannedInstance, ...] = ()
    """Of a service: as `plan` shows them."""
    failure: Failure | None = None
    """Why it is refused."""

    @property
    def decision(self) -> list[object]:
        """Without reasons, which are a snapshot of the load of hosts."""
        instances = [(each.action, each.host, each.route, each.fields) for each in self.instances]
        return [self.kind, self.name, self.action, [each.model_dump() for each in self.fields], instances]


class Changes(BaseModel):
    items: list[Change]
    """In the order of the documents, then the removals."""
    digest: str
    """Of what would be done; an apply with `expected` does this or nothing."""

    @classmethod
    def of(cls, items: Sequence[Change]) -> Changes:
        text = json.dumps([each.decision for each in items], sort_keys=True)
        return cls(items=list(items), digest=sha256(text.encode()).hexdigest()[:16])


class ApplyRequest(NamedTuple):
    documents: Sequence[SpecDocument]
    mandate: Mandate
    owner: str | None = None
    """None leaves the owners as they are."""
    prune: bool = False
    """Removes what the owner applied before and no document names."""
    expected: str | None = None
    """The digest of the only changes that may be made."""

    def of(self, kind: str) -> list[SpecDocument]:
        return [each for each in self.documents if each.kind == kind]


class Exported(NamedTuple):
    documents: list[SpecDocument]
    failures: list[Failure]
    """Of what has no document, such as a service whose spec does not verify."""


class DocumentKind(Protocol):
    """The handler of one kind. Every call may raise BrokerUnavailable."""

    def plan(self, request: ApplyRequest) -> list[Change]:
        """One for each document of this kind; a refusal is the change's failure."""

    def plan_prune(self, request: ApplyRequest) -> list[Change]:
        """The removals of what the owner applied before and no document of this kind names."""

    def write(self, request: ApplyRequest) -> list[Operation]:
        """Raises the first refusal, before anything is written."""

    def prune(self, names: Sequence[str], request: ApplyRequest, /) -> list[Operation]: ...

    def export(self, names: Collection[str] | None) -> Exported:
        """None exports all."""


@dataclass(frozen=True)
class Documents:
    kinds: Mapping[str, DocumentKind]
    """In the order in which they are written: the first may still refuse."""

    def plan(self, request: ApplyRequest) -> Changes:
        """Raises InvalidRequest if two documents are of one subject."""
        self._check_differ(request)
        planned = {(change.kind, change.name): change for kind in self.kinds.values() for change in kind.plan(request)}
        changes = [planned[each.kind, each.subject] for each in request.documents]
        if request.prune:
            changes += [change for kind in self.kinds.values() for change in kind.plan_prune(request)]
        return Changes.of(changes)

    def apply(self, request: ApplyRequest) -> list[Operation]:
        """Atomic: all or nothing. Raises DocumentsRefused, PlanChanged, InvalidRequest."""
        changes = self.plan(request)
        _check_accepted(changes, request)
        if request.expected not in (None, changes.digest):
            raise PlanChanged()
        operations = [operation for kind in self.kinds.values() for operation in kind.write(request)]
        for name, kind in self.kinds.items():
            pruned = [each.name for each in changes.items if each.kind == name and each.action is ChangeKind.REMOVE]
            operations += kind.prune(pruned, request)
        return operations

    def export(self, services: Collection[str] | None) -> Exported:
        """The documents of these services, or of everything. Raises UnknownService."""
        kinds = self.kinds.values() if services is None else [self.kinds["service"]]
        found = [kind.export(services) for kind in kinds]
        return Exported([it for each in found for it in each.documents], [it for each in found for it in each.failures])

    def _check_differ(self, request: ApplyRequest) -> None:
        counts = Counter((each.kind, each.subject) for each in request.documents)
        if twice := [f"{kind} {subject}" for (kind, subject), number in counts.items() if number > 1]:
            detail = f"Several documents are of {', '.join(twice[:MOST_REFUSALS])}."
            raise InvalidRequest(detail=detail, remedy="Keep one of each.")


def changes_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    return tuple(FieldChange.model_validate(Difference._asdict(each)) for each in differences(before, after))


def action_of(*, exists: bool, fields: Sequence[FieldChange], instances: Sequence[PlannedInstance] = ()) -> ChangeKind:
    if not exists:
        return ChangeKind.CREATE
    is_changed = bool(fields) or any(each.action is not Action.UNCHANGED for each in instances)
    return ChangeKind.CHANGE if is_changed else ChangeKind.UNCHANGED


def _check_accepted(changes: Changes, request: ApplyRequest) -> None:
    refused = [(each, each.failure) for each in changes.items if each.failure]
    if refused:
        named = [f"{each.kind} {each.name}: {failure.message}" for each, failure in refused[:MOST_REFUSALS]]
        raise DocumentsRefused(number=len(refused), count=len(request.documents), details=" ".join(named))
