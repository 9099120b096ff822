"""Starts, several at once: what each was asked to be, where it goes, then one step that puts all of them down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from aima_api.http.schemas import DEFAULT_GRACE
from aima_api.planning.placement import Placement, PlacementLocks, Target
from aima_api.planning.planner import StartPlanner
from aima_api.submission.service_spec import StartRequest, as_asked
from aima_api.submission.submitter import Submitter
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import Operation, StartService, StopService
from aima_core.domain.services import Service
from aima_core.errors import AimaError
from aima_core.store.services import ServiceStore, Whereabouts


class _Ready(NamedTuple):
    service: Service
    command: StartService
    places: list[Target]
    left: list[Target]
    """Hosts whose instance another takes the place of: it is to stop, when they are back if they are away."""
    is_new: bool
    """It is not as it was written down."""


class StartSubmission:
    """Each is checked before anything of it is written. Every call may raise BrokerUnavailable within seconds."""

    def __init__(
        self, planner: StartPlanner, submit: Submitter, *, services: ServiceStore, locks: PlacementLocks
    ) -> None:
        self._locks = locks
        self._planner = planner
        self._submit = submit
        self._services = services

    def start(self, asked: StartRequest) -> list[Operation]:
        """Remember the service and bring it up, one operation per instance. Raises what speaks against it."""
        [started] = self.start_each([asked])
        if isinstance(started, AimaError):
            raise started
        return started

    def start_each(self, asked: Sequence[StartRequest]) -> list[list[Operation] | AimaError]:
        """The operations of each, or what speaks against it; a service is found as the one before has left it."""
        known = self._services.placements({each.id for each in asked})
        if not (several := {each.id for each in asked if each.wants_several(known[each.id].service)}):
            return self._begin(asked, known)
        with self._locks.holding(several):
            return self._begin(asked, known | self._services.placements(several))

    def _begin(
        self, asked: Sequence[StartRequest], known: dict[ServiceId, Whereabouts]
    ) -> list[list[Operation] | AimaError]:
        placement = self._planner.placement()
        ready = [self._ready(each, known, placement) for each in asked]
        going = [each for each in ready if isinstance(each, _Ready)]
        self._services.put(*(each.service for each in going if each.is_new))
        stops = [(StopService(service=each.service.id, grace=DEFAULT_GRACE), each.left) for each in going if each.left]
        submitted = self._submit.submit_all([*stops, *((each.command, each.places) for each in going)])
        operations = islice(submitted, sum(len(places) for _, places in stops), None)
        return [list(islice(operations, len(each.places))) if isinstance(each, _Ready) else each for each in ready]

    def _ready(
        self, asked: StartRequest, known: dict[ServiceId, Whereabouts], placement: Placement
    ) -> _Ready | AimaError:
        before, hosts, wanted = known[asked.id]
        try:
            service = as_asked(before, asked.id, asked.options)
            command = self._planner.command(service, replace=asked.replace)
            sought = self._planner.sought(service, command)
            places = self._planner.places(service, sought, placement, hosts=asked.hosts, known=hosts)
            self._submit.check_backlog(len(places))
        except AimaError as refused:
            return refused
        known[asked.id] = Whereabouts(service, hosts, wanted)
        bound = asked.hosts or service.hosts or (service.route and service.route.host)
        left = [] if bound else placement.left(wanted, places)
        return _Ready(service, command, places, left, is_new=service != before)


GATHERS = timedelta(milliseconds=1)
"""Whoever has just been answered often asks again at once: a turn for one alone costs as much as one for many."""
AT_MOST = 50
"""Requests carried out together; those beyond wait for the next turn."""
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
_Waiting = tuple[Asked, "asyncio.Future[Answer]"]


class Batcher(Generic[Asked, Answer]):
    """To be called in one event loop."""

    def __init__(self, carry_out: Callable[[Sequence[Asked]], Sequence[Answer | AimaError]]) -> None:
        """`carry_out` gives an answer for each; what it raises is the answer to all."""
        self._carry_out = carry_out
        self._waiting: list[_Waiting[Asked, Answer]] = []
        self._locks: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        """Raises what the answer is, if that is a failure."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._locks is None:
            self._locks = asyncio.create_task(self._take_turns())
        return await answer

    async def _take_turns(self) -> None:
        try:
            while self._waiting:
                turn, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
                await self._take(turn)
                await asyncio.sleep(GATHERS.total_seconds())
        finally:
            self._locks = None

    async def _take(self, turn: Sequence[_Waiting[Asked, Answer]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await asyncio.to_thread(self._carry_out, [asked for asked, _ in turn])
        except Exception as failed:  # noqa: BLE001  # whatever it is, those who wait are to hear of it
            answers = [failed] * len(turn)
        for (_, waiting), answer in zip(turn, answers, strict=True):
            _tell(waiting, answer)


def _tell(waiting: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if waiting.done():
        return  # whoever asked has gone
    if isinstance(answer, Exception):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)
