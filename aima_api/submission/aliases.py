"""Sets aliases: checked against services and models before anything is written, then signed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aima_api.access.aliases import Alias, AliasStore
from aima_api.catalog.diagnostics import nearest
from aima_api.catalog.live import LiveCatalog
from aima_api.specs.documents import AliasDocument
from aima_api.specs.fields import AliasTargets
from aima_api.submission.documents import ApplyRequest, Change, ChangeKind, Exported, action_of, changes_of
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import Operation
from aima_core.errors import AimaError, AliasConflict, AliasTargetUnknown, UnknownAlias
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import SigningKey

NEAREST = 3


@dataclass(frozen=True)
class AliasSubmission:
    aliases: AliasStore
    services: ServiceStore
    catalogs: LiveCatalog
    signing_key: SigningKey

    def set(self, name: str, to: AliasTargets, *, by: str, owner: str | None = None) -> Alias:
        """None keeps the owner. Raises AliasConflict, AliasTargetUnknown."""
        self.check(name, to, self.services.ids())
        before = self.aliases.find(name)
        alias = _alias(name, to, by=by, owner=owner or (before.owner if before else None))
        self.aliases.put(alias, self.signing_key)
        return alias

    def check(self, name: str, to: AliasTargets, services: Collection[ServiceId]) -> None:
        """Raises AliasConflict, AliasTargetUnknown."""
        models = dict[str, str]({each.model: each.model for each in services})
        models |= {each.id: each.name for each in self.catalogs.current.models}
        if name.startswith("svc-"):
            raise AliasConflict(alias=name, what="written like the id of a service")
        if model := models.get(name.lower()):
            raise AliasConflict(alias=name, what=f"the name of the model {model}")
        for service in to.services:
            if service not in services:
                near = ", ".join(nearest(service, [*services], NEAREST)) or "none"
                raise AliasTargetUnknown(alias=name, service=service, nearest=near)


@dataclass(frozen=True)
class AliasDocuments:
    """Written after the services, which may be those of the same request."""

    submission: AliasSubmission

    def plan(self, request: ApplyRequest) -> list[Change]:
        documents = _documents(request)
        if not documents:
            return []
        services = {*self.submission.services.ids(), *(ServiceId(each.subject) for each in request.of("service"))}
        known = self._known()
        return [self._change(each, known.get(each.name), request, services) for each in documents]

    def plan_prune(self, request: ApplyRequest) -> list[Change]:
        named = {each.name for each in _documents(request)}
        owned = [each for each in self._known().values() if each.owner == request.owner and each.name not in named]
        return [Change(kind="alias", name=each.name, action=ChangeKind.REMOVE) for each in owned]

    def write(self, request: ApplyRequest) -> list[Operation]:
        documents = _documents(request)
        known = self._known() if documents else {}
        for each in documents:
            before, by = known.get(each.name), request.mandate.caller
            owner = request.owner or (before.owner if before else None)
            if before is None or before.content != _alias(each.name, each, by=by, owner=owner).content:
                self.submission.set(each.name, each, by=by, owner=owner)
        return []

    def prune(self, names: Sequence[str], _: ApplyRequest) -> list[Operation]:
        for name in names:
            with suppress(UnknownAlias):  # it was removed meanwhile
                self.submission.aliases.remove(name)
        return []

    def export(self, names: Collection[str] | None) -> Exported:
        chosen = [each for each in self._known().values() if names is None or each.name in names]
        return Exported(
            [
                AliasDocument(kind="alias", name=each.name, targets=dict(each.targets), fallback=each.fallback)
                for each in chosen
            ],
            [],
        )

    def _known(self) -> dict[str, Alias]:
        return {each.name: each for each in self.submission.aliases.all().items}

    def _change(
        self, document: AliasDocument, before: Alias | None, request: ApplyRequest, services: Collection[ServiceId]
    ) -> Change:
        try:
            self.submission.check(document.name, document, services)
        except AimaError as refusal:
            return Change(kind="alias", name=document.name, action=ChangeKind.REFUSED, failure=refusal.failure)
        owner = request.owner or (before.owner if before else None)
        after = _alias(document.name, document, by=request.mandate.caller, owner=owner)
        fields = changes_of(before.content if before else {}, after.content)
        action = action_of(exists=before is not None, fields=fields)
        return Change(kind="alias", name=document.name, action=action, fields=fields)


def _documents(request: ApplyRequest) -> list[AliasDocument]:
    return [each for each in request.documents if isinstance(each, AliasDocument)]


def _alias(name: str, to: AliasTargets, *, by: str, owner: str | None) -> Alias:
    return Alias(name=name, targets=to.targets, fallback=to.fallback, owner=owner, changed_at=now(), changed_by=by)
