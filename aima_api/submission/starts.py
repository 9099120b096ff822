"""Starts, several at once: what each was asked to be, where it goes, then one step that puts all of them down."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from aima_api.http.schemas import DEFAULT_GRACE
from aima_api.planning.placement import Placement, Target
from aima_api.planning.placement_lock import PlacementLocks
from aima_api.planning.planner import StartPlanner
from aima_api.submission.asked import StartRequest
from aima_api.submission.service_spec import as_asked
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
