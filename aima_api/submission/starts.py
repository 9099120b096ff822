"""Starts: concurrent requests are micro-batched, planned one after the other, and enqueued by one script call.

Each request is checked before anything of it is written; a refused one affects no other of its batch.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from operator import add
from typing import Any, Generic, NamedTuple, TypeVar

from aima_api.http.schemas import DEFAULT_GRACE, ServiceOptions
from aima_api.planning.placement import Placement, PlacementLocks, Target
from aima_api.planning.planner import PlannedStart, StartPlanner
from aima_api.planning.steps import Action, Step, reserve, steps_of
from aima_api.submission.models import pull_at_source
from aima_api.submission.submitter import Dispatch, Submitter
from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import Kind, Operation, PullModel, StartService, StopService
from aima_core.errors import AimaError, SourceUnresolved, UnverifiedService, WouldWait
from aima_core.store.services import ServiceStore
from aima_core.store.whereabouts import Whereabouts
from aima_core.trust.orders import MAX_EXPIRY, Mandate
from aima_core.trust.records import SignedService

AFTER_STARTS = "It waits until the instances that take its place are ready."


class StartRequest(NamedTuple):
    id: ServiceId
    options: ServiceOptions
    mandate: Mandate
    hosts: Sequence[HostName] = ()
    """Override the stored service's hosts, for this start only."""
    replace: bool = False
    """Removes the running container first."""
    keep_failed: bool = False
    only_now: bool = False
    """Refused where it would be pending."""
    spec: Mapping[str, Any] | None = None
    """The whole spec, in place of options: of a rollback, and of a document."""
    owner: str | None = None
    """Of the document; None leaves it as it is."""

    def chooses_hosts(self, stored: SignedService | UnverifiedService | None) -> bool:
        """For several replicas, and for secrets, which not every host of a route has."""
        if self.spec is not None:
            return self.spec.get("replicas", 1) > 1 or bool(self.spec.get("secrets"))
        spec = stored.spec if isinstance(stored, SignedService) else None
        replicas = self.options.replicas or (spec.replicas if spec else 1)
        return replicas > 1 or bool(self.options.secrets or (spec and spec.secrets))


class _AcceptedStart(NamedTuple):
    service: SignedService
    starts: list[Dispatch]
    """None where it runs as asked: there is nothing to do."""
    stops: list[Dispatch]
    """Of instances that the starts replace, once those have succeeded; on an offline host when that is back."""
    put: bool
    """The spec becomes the current one now: there is none before, or nothing is to be started for it."""
    mandate: Mandate
    before: list[Operation]
    """Starts that have not ended, which this one supersedes unless it joins them."""
    pulls: list[Dispatch]
    """Of the model, on the host from which those of the starts get it."""

    @property
    def dispatches(self) -> list[Dispatch]:
        """In the order of their fences.

        A stop that waits for no start comes first: the host that it leads to may claim the start once it is back.
        """
        return [
            *self.pulls,
            *(stop for stop in self.stops if not stop.after),
            *self.starts,
            *(stop for stop in self.stops if stop.after),
        ]


@dataclass(frozen=True)
class StartSubmission:
    """Every call may raise BrokerUnavailable within seconds."""

    planner: StartPlanner
    submitter: Submitter
    services: ServiceStore
    locks: PlacementLocks

    def start(self, request: StartRequest) -> list[Operation]:
        """Stores the service. Returns a start per instance, then a stop per surplus one. Raises its refusal."""
        [result] = self.start_each([request])
        if isinstance(result, AimaError):
            raise result
        return result

    def start_together(self, requests: Sequence[StartRequest]) -> list[list[Operation]]:
        """The operations of each in this order, as `plan_together` plans them. All are accepted, or nothing is written.

        Raises the first refusal.
        """
        accepted = list[list[Operation]]()
        for result in self.start_each(requests, together=True):
            if isinstance(result, AimaError):
                raise result
            accepted.append(result)
        return accepted

    def start_each(
        self, requests: Sequence[StartRequest], *, together: bool = False
    ) -> list[list[Operation] | AimaError]:
        """The operations or the refusal of each; a later request sees the spec that an earlier one stored.

        With `together`, it also sees what an earlier one will allocate, and one refusal keeps all from being written.
        """
        locked = {each.id for each in requests if each.chooses_hosts(None)}
        known = self.services.placements({each.id for each in requests} - locked)
        locked |= {each.id for each in requests if each.id in known and each.chooses_hosts(known[each.id].stored)}
        if not locked:
            return self._submit(requests, known, together)
        with self.locks.holding(locked):  # then read, or read again: the first snapshot may be stale
            return self._submit(requests, known | self.services.placements(locked), together)

    def _submit(
        self, requests: Sequence[StartRequest], known: dict[ServiceId, Whereabouts], together: bool
    ) -> list[list[Operation] | AimaError]:
        placement = self.planner.placement()
        placement.read_allocations({host for where in known.values() for host in where.hosts})
        results = [self._accept(each, known, placement, together) for each in requests]
        accepted = [each for each in results if isinstance(each, _AcceptedStart)]
        if together and len(accepted) < len(results):
            return [each if isinstance(each, AimaError) else [] for each in results]
        self.services.put(*(each.service for each in accepted if each.put and not each.dispatches))
        submitted = iter(self.submitter.submit_all([dispatch for each in accepted for dispatch in each.dispatches]))
        pairs = [[(target, next(submitted)) for it in each.dispatches for target in it.targets] for each in accepted]
        started = [[one for _, one in those if one.kind is Kind.START] for those in pairs]
        self._supersede(accepted, started)
        # A client that waits for these operations must not wait for an offline host.
        stopped = [
            [one for target, one in those if one.kind is Kind.STOP and placement.answers(target)] for those in pairs
        ]
        replies = map(add, started, stopped)
        return [each if isinstance(each, AimaError) else next(replies) for each in results]

    def _accept(
        self, request: StartRequest, known: dict[ServiceId, Whereabouts], placement: Placement, together: bool
    ) -> _AcceptedStart | AimaError:
        where = known[request.id]
        try:
            current, caller = where.service, request.mandate.caller
            base, change = where.candidate or current, request.options if request.spec is None else request.spec
            service = self.submitter.signed_service(base, request.id, change, caller, request.owner)
            planned = self.planner.plan(service.spec, record=service.record)
            planned = planned.with_command(replace=request.replace, keep_failed=request.keep_failed)
            steps = steps_of(planned, where, placement, hosts=request.hosts)
            if request.only_now and (reasons := [step.reason for step in steps if step.action is Action.PENDING]):
                raise WouldWait(detail=" ".join(filter(None, reasons)))
            starts = _starts(planned, steps, request.mandate, change=current is not None and service is not current)
            if model := planned.unresolved(chain.from_iterable(each.targets for each in starts), placement):
                raise SourceUnresolved(model=model.name)
            pulls = _pulls_at_source(planned, starts, placement, request.mandate)
            self.submitter.backlog.reserve(sum(len(each.targets) for each in (*starts, *pulls)))
        except AimaError as refusal:
            return refusal
        if together:
            reserve(planned, steps, placement)
        put = service is not current and (current is None or not starts)
        known[request.id] = where._replace(stored=service if put else current, candidate=None if put else service)
        stops = _stops(request, steps, starts)
        if put and (starts or stops):  # in one step, so that a crash of this node stores both or neither
            first = starts or stops
            first[0] = first[0]._replace(put=service)
        before = [start.operation for start in where.starts if _concerns(start.operation, request.hosts)]
        return _AcceptedStart(service, starts, stops, put, request.mandate, before, pulls)

    def _supersede(self, accepted: Sequence[_AcceptedStart], started: Sequence[Sequence[Operation]]) -> None:
        """Cancels the starts that these replace, also those before in the same batch."""
        batch: defaultdict[ServiceId, list[Operation]] = defaultdict(list)
        for each, now in zip(accepted, started, strict=True):
            earlier, joined = batch[each.service.spec.id], {operation.id for operation in now}
            by = next((operation for operation in now if not operation.state.ended), None)
            for old in (*each.before, *earlier):
                if by and old.id not in joined and not old.state.ended:
                    self.submitter.cancellations.supersede(old, by)
            earlier += now


def _starts(planned: PlannedStart, steps: Sequence[Step], mandate: Mandate, *, change: bool) -> list[Dispatch]:
    """The starts of the steps: a container that is planned to be replaced is never adopted.

    Several starts of a `change` of the spec belong together: it becomes the current one once all have succeeded.
    """
    asks_for, alone = planned.asks_for, planned.is_alone
    targets: dict[bool, list[Target]] = {}
    for step in steps:
        if step.submits and step.target:
            targets.setdefault(planned.command.replace or step.action is Action.RECREATE, []).append(step.target)
    ids = {recreates: tuple(OperationId.new() for _ in those) for recreates, those in targets.items()}
    every = tuple(chain.from_iterable(ids.values()))
    together = every if change and len(every) > 1 else ()
    commands = {each: planned.with_command(replace=each, change=together).command for each in targets}
    return [
        Dispatch(commands[recreates], those, mandate, asks_for, alone, ids[recreates])
        for recreates, those in targets.items()
    ]


def _pulls_at_source(
    planned: PlannedStart, starts: Sequence[Dispatch], placement: Placement, mandate: Mandate
) -> list[Dispatch]:
    weights, manifest = planned.command.weights, planned.command.manifest
    targets = [*chain.from_iterable(each.targets for each in starts)]
    if weights is None or manifest is None:
        return []
    if not (at_source := pull_at_source(placement, manifest, targets, path=weights.path)):
        return []
    return [Dispatch(PullModel(manifest=manifest), at_source, mandate)]


def _stops(request: StartRequest, steps: Sequence[Step], starts: Sequence[Dispatch]) -> list[Dispatch]:
    """A stop waits for all starts of its change, else for that of the instance that takes its place.

    If any host of a class may claim that start, the stop does not wait: the host that has the instance would claim it.
    """
    by_target = {target: id for start in starts for target, id in zip(start.targets, start.ids, strict=True)}
    change = next((start.command.change for start in starts if isinstance(start.command, StartService)), ())
    command, stops = StopService(service=request.id, grace=DEFAULT_GRACE), list[Dispatch]()
    for step in steps:
        if step.stopped is None:
            continue
        own = (by_target[step.target],) if step.target and step.target.host else ()
        if after := change or own:
            waiting = replace(step.stopped, reason=step.stopped.reason or AFTER_STARTS)
            mandate = request.mandate._replace(expires=MAX_EXPIRY)  # the starts may take as long as they need
            stops.append(Dispatch(command, [waiting], mandate, after=after))
        else:
            stops.append(Dispatch(command, [step.stopped], request.mandate))
    return stops


def _concerns(start: Operation, hosts: Sequence[HostName]) -> bool:
    """Whether a start on these hosts, or all if none is named, replaces this one."""
    return not hosts or bool({start.host, start.route.host} & set(hosts))


BATCH_DELAY = timedelta(milliseconds=1)
"""Between two batches: a client that was just answered often sends again, and a batch costs as much as one request."""
MAX_BATCH_SIZE = 50

Request = TypeVar("Request")
Result = TypeVar("Result")
_Waiting = tuple[Request, "asyncio.Future[Result]"]


class Batcher(Generic[Request, Result]):
    """Micro-batching: requests that arrive during a batch form the next one. Used from one event loop."""

    def __init__(self, run: Callable[[Sequence[Request]], Sequence[Result | AimaError]]) -> None:
        """`run` returns one result per request, in a thread; an exception of it fails the whole batch."""
        self._run = run
        self._waiting: list[_Waiting[Request, Result]] = []
        self._batches: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Result:
        """Raises the request's error."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, result))
        if self._batches is None:
            self._batches = asyncio.create_task(self._run_batches())
        return await result

    async def _run_batches(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH_SIZE], self._waiting[MAX_BATCH_SIZE:]
                await self._run_batch(batch)
                await asyncio.sleep(BATCH_DELAY.total_seconds())
        finally:
            self._batches = None

    async def _run_batch(self, batch: Sequence[_Waiting[Request, Result]]) -> None:
        results: Sequence[Result | Exception]
        try:
            results = await asyncio.to_thread(self._run, [request for request, _ in batch])
        except Exception as error:  # noqa: BLE001  # the error boundary of the batch: every caller gets it
            results = [error] * len(batch)
        for (_, waiting), result in zip(batch, results, strict=True):
            if waiting.done():
                continue  # the caller was cancelled
            if isinstance(result, Exception):
                waiting.set_exception(result)
            else:
                waiting.set_result(result)
