"""The handlers of the kinds of documents: services, whose steps are those of starts and stops, and labels of hosts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aima_api.http.schemas import DEFAULT_GRACE, ServiceOptions
from aima_api.planning.merge import revised
from aima_api.planning.planner import StartPlanner
from aima_api.planning.preview import Plan, PlannedInstance, PlanRequest, Verdict, differing_revisions, plan_together
from aima_api.planning.steps import Action
from aima_api.specs.documents import HostDocument, ServiceDocument, written
from aima_api.submission.documents import ApplyRequest, Change, ChangeKind, Exported, action_of, changes_of
from aima_api.submission.starts import StartRequest, StartSubmission
from aima_api.submission.stops import Stops
from aima_core.domain.hosts import AssignedLabels, Host
from aima_core.domain.ids import HostName, Route, ServiceId
from aima_core.domain.operations import Operation
from aima_core.domain.services import Service
from aima_core.errors import (
    AimaError,
    Failure,
    OperationInProgress,
    ServiceRunning,
    UnknownHost,
    UnknownService,
    UnverifiedService,
)
from aima_core.store.hosts import HostStore
from aima_core.store.services import ServiceStore
from aima_core.store.whereabouts import Whereabouts
from aima_core.trust.records import SignedService


@dataclass(frozen=True)
class ServiceDocuments:
    planner: StartPlanner
    services: ServiceStore
    starts: StartSubmission
    stops: Stops

    def plan(self, request: ApplyRequest) -> list[Change]:
        documents = _services(request)
        known = self.services.placements([each.id for each in documents])
        kept = differing_revisions(self.services, known)
        changes, to_run = dict[ServiceId, Change](), list[PlanRequest]()
        for document in documents:
            where = known[document.id]
            try:
                before = _base(where)
                service = revised(before, document.id, document.spec, owner=request.owner)
                if document.desired == "running":
                    to_run.append(PlanRequest(service, where, kept.get(document.id, ())))
                else:
                    changes[document.id] = self._stopped(before, service, where)
            except AimaError as refusal:
                changes[document.id] = _refused(document.id, refusal.failure)
        for asked, plan in zip(to_run, plan_together(self.planner, to_run), strict=True):
            changes[asked.service.id] = _started(asked, plan)
        return [changes[each.id] for each in documents]

    def plan_prune(self, request: ApplyRequest) -> list[Change]:
        named = {each.id for each in _services(request)}
        owned = [
            stored.spec.id
            for stored in self.services.all().values()
            if isinstance(stored, SignedService) and stored.spec.owner == request.owner and stored.spec.id not in named
        ]
        known = self.services.placements(owned)
        return [
            Change(kind="service", name=id, action=ChangeKind.REMOVE, instances=tuple(_stops(known[id])))
            for id in owned
        ]

    def write(self, request: ApplyRequest) -> list[Operation]:
        documents, mandate = _services(request), request.mandate
        to_run = [each for each in documents if each.desired == "running"]
        starts = [
            StartRequest(each.id, ServiceOptions(), mandate, spec=each.spec, owner=request.owner) for each in to_run
        ]
        operations = [operation for each in self.starts.start_together(starts) for operation in each]
        to_stop = [each for each in documents if each.desired == "stopped"]
        known = self.services.placements([each.id for each in to_stop])
        for document in to_stop:
            operations += self._stop(document, known[document.id], request)
        return operations

    def prune(self, names: Sequence[str], request: ApplyRequest) -> list[Operation]:
        """Removes what runs nowhere; the others are stopped, and can be removed once these operations have ended."""
        operations = list[Operation]()
        for id in map(ServiceId, names):
            operations += self.stops.stop(id, grace=DEFAULT_GRACE, mandate=request.mandate)
            with suppress(ServiceRunning, OperationInProgress, UnknownService):
                self.stops.remove(id)
        return operations

    def export(self, names: Collection[str] | None) -> Exported:
        every = self.services.all()
        chosen = every if names is None else {id: every.get(id) for id in sorted(set(names))}
        known = self.services.placements([ServiceId(id) for id, each in chosen.items() if each])
        found = Exported([], [])
        for id, stored in chosen.items():
            if stored is None:
                raise UnknownService(service=id)
            if isinstance(stored, UnverifiedService):
                found.failures.append(stored.failure)
            else:
                found.documents.append(_document(stored.spec, known[stored.spec.id]))
        return found

    def _stop(self, document: ServiceDocument, where: Whereabouts, request: ApplyRequest) -> list[Operation]:
        current, mandate = where.service, request.mandate
        service = self.starts.submitter.signed_service(
            where.candidate or current, document.id, document.spec, mandate.caller, request.owner
        )
        put = service if service is not current else None
        if where.wanted or where.starts:
            return self.stops.stop(document.id, grace=DEFAULT_GRACE, mandate=mandate, put=put)
        if put:
            self.services.put(put)
        return []

    def _stopped(self, before: Service | None, service: Service, where: Whereabouts) -> Change:
        """Raises what a start of a changed spec would raise."""
        if service is not before:
            self.planner.check(service)
        return _change(before, service, tuple(_stops(where)))


@dataclass(frozen=True)
class HostDocuments:
    hosts: HostStore

    def plan(self, request: ApplyRequest) -> list[Change]:
        documents = _hosts(request)
        known = {host.name: host for host in self.hosts.all()} if documents else {}
        return [_labelled(each, known.get(each.name), request) for each in documents]

    def plan_prune(self, request: ApplyRequest) -> list[Change]:
        named = {each.name for each in _hosts(request)}
        owned = [host for host in self.hosts.all() if host.assigned.owner == request.owner and host.name not in named]
        return [
            Change(kind="host", name=host.name, action=ChangeKind.REMOVE, fields=changes_of(_labels(host), {}))
            for host in owned
        ]

    def write(self, request: ApplyRequest) -> list[Operation]:
        documents = _hosts(request)
        known = {host.name: host for host in self.hosts.all()} if documents else {}
        for each in documents:
            assigned = _assigned(each, known.get(each.name), request)
            if each.name not in known or known[each.name].assigned != assigned:
                self.hosts.assign_labels(each.name, assigned)
        return []

    def prune(self, names: Sequence[str], _: ApplyRequest) -> list[Operation]:
        for name in names:
            with suppress(UnknownHost):  # race: it was forgotten
                self.hosts.assign_labels(HostName(name), AssignedLabels())
        return []

    def export(self, names: Collection[str] | None) -> Exported:
        labelled = [host for host in self.hosts.all() if host.assigned.labels and (names is None or host.name in names)]
        documents = [HostDocument(kind="host", name=each.name, labels=dict(each.assigned.labels)) for each in labelled]
        return Exported([*documents], [])


def _services(request: ApplyRequest) -> list[ServiceDocument]:
    return [each for each in request.documents if isinstance(each, ServiceDocument)]


def _hosts(request: ApplyRequest) -> list[HostDocument]:
    return [each for each in request.documents if isinstance(each, HostDocument)]


# Services -----------------------------------------------------------------------------------------------------------


def _base(where: Whereabouts) -> Service | None:
    """What a start changes. Raises UnverifiedService."""
    base = where.candidate or where.service
    return base and base.spec


def _started(request: PlanRequest, plan: Plan | AimaError) -> Change:
    if isinstance(plan, AimaError):
        return _refused(request.service.id, plan.failure)
    if plan.verdict is Verdict.REFUSED and plan.failure:
        return _refused(request.service.id, plan.failure)
    return _change(_base(request.where), request.service, plan.instances)


def _change(before: Service | None, service: Service, instances: tuple[PlannedInstance, ...]) -> Change:
    fields = changes_of(_fields(before), _fields(service))
    action = action_of(exists=before is not None, fields=fields, instances=instances)
    return Change(kind="service", name=service.id, action=action, fields=fields, instances=instances)


def _refused(id: ServiceId, failure: Failure) -> Change:
    return Change(kind="service", name=id, action=ChangeKind.REFUSED, failure=failure)


def _fields(service: Service | None) -> dict[str, Any]:
    if service is None:
        return {}
    return {**written(service.content), **({"owner": service.owner} if service.owner else {})}


def _stops(where: Whereabouts) -> Iterator[PlannedInstance]:
    for host in where.wanted:
        yield PlannedInstance(action=Action.STOP, host=host, route=Route.to_host(host))
    if where.starts and not where.wanted:
        route = where.starts[-1].operation.route
        yield PlannedInstance(action=Action.STOP, host=None, route=route, reason="its start is cancelled")


def _document(service: Service, where: Whereabouts) -> ServiceDocument:
    desired = "running" if where.wanted or where.starts else "stopped"
    return ServiceDocument.model_validate({"kind": "service", "id": service.id, **service.content, "desired": desired})


# Hosts --------------------------------------------------------------------------------------------------------------


def _labelled(document: HostDocument, host: Host | None, request: ApplyRequest) -> Change:
    if host is None:
        failure = UnknownHost(host=document.name).failure
        return Change(kind="host", name=document.name, action=ChangeKind.REFUSED, failure=failure)
    fields = changes_of(_labels(host), _labels(host, _assigned(document, host, request)))
    return Change(kind="host", name=host.name, action=action_of(exists=True, fields=fields), fields=fields)


def _assigned(document: HostDocument, host: Host | None, request: ApplyRequest) -> AssignedLabels:
    return AssignedLabels(labels=document.labels, owner=request.owner or (host.assigned.owner if host else None))


def _labels(host: Host, assigned: AssignedLabels | None = None) -> dict[str, Any]:
    its = assigned or host.assigned
    return {"labels": dict(its.labels), **({"owner": its.owner} if its.owner else {})}
