"""Claims: 15-second leases on operations, so that exactly one worker executes each.

A claim that is not renewed expires, and the operation is redelivered. An attempt that was superseded concurrently is
refused by its number, so that a worker back from a partition changes nothing.
"""

import uuid
from enum import StrEnum
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from aima_core.domain.ids import HostName, OperationId
from aima_core.domain.operations import COMMAND, Command, Operation, State
from aima_core.domain.resources import HostCapacity, ObstacleKind
from aima_core.errors import CorruptData
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, comma_list, in_ms, pairs
from aima_core.store.operation_records import operation_from
from aima_core.store.operations import now
from aima_core.store.readable import UNREADABLE, readable, reason_of
from aima_core.trust.orders import SignedOrder

_CLAIMABLE = comma_list(state for state in State if not state.ended)


class Claimed(NamedTuple):
    """The caller alone executes the operation while it renews the claim."""

    attempt: int
    operation: Operation
    command_text: str
    order: SignedOrder
    gpus: tuple[str, ...] = ()
    """The ids of those allocated to it."""

    @property
    def command(self) -> Command:
        """Raises ValidationError, CorruptData."""
        command = COMMAND.validate_json(self.command_text)
        if command.kind is not self.operation.kind:
            detail = f"operation {self.operation.id} is a {self.operation.kind}, and its command a {command.kind}."
            raise CorruptData(detail=detail)
        return command


class NotClaimable(NamedTuple):
    """The message was a duplicate, or late: there is nothing to do."""

    reason: str
    cancel_pending: bool = False
    """It was cancelled, and its end is not recorded yet."""
    change_not_made: bool = False
    """A start that must succeed before it did not; its end is not recorded yet."""


class InsufficientCapacity(NamedTuple):
    """The host cannot run it now; it is recorded as pending."""

    lack: ObstacleKind
    operation: Operation


class AlreadyPlaced(NamedTuple):
    """A start that any host may claim, and whose service another host has already."""

    host: HostName
    operation: Operation


class Unreadable(NamedTuple):
    """Another writer changed the record: no worker can execute the operation, and this one must end it."""

    why: str
    attempt: int | None = None
    """The claim that was granted before it was read."""


ClaimResult = Claimed | NotClaimable | InsufficientCapacity | AlreadyPlaced | Unreadable


class ClaimStatus(StrEnum):
    """The status of a claim at its renewal."""

    VALID = "go on"
    CANCEL = "cancel"
    """A cancel was requested."""
    SUPERSEDED = "lost"
    """Another attempt has begun; this one must record nothing more."""
    RECORD_MISSING = "gone"
    """Redis has lost the operation."""


class ClaimStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._run = Scripts(redis)

    def claim(self, id: OperationId, host: HostName, room: HostCapacity | None = None) -> ClaimResult:
        """Claims an operation for CLAIM_TTL, and allocates what a start needs; without `room` everything fits."""
        outcome, what, *more = self._claim(id, host, room)
        attempt = None
        try:
            match outcome:
                case 0:
                    not_made = what == "its change was not made"
                    return NotClaimable(str(what), cancel_pending=what == "cancelled", change_not_made=not_made)
                case 2:
                    return InsufficientCapacity(ObstacleKind(what), operation_from(id, pairs(more[0])))
                case 3:
                    return AlreadyPlaced(HostName(what), operation_from(id, pairs(more[0])))
                case 4:
                    return Unreadable(str(what))
            fields = pairs(what)
            attempt = int(fields["attempt"])
            record = operation_from(id, fields)
        except UNREADABLE as wrong:
            return Unreadable(reason_of(wrong), attempt)
        order = SignedOrder(fields.get("order", ""), fields.get("signature", ""))
        return Claimed(attempt, record, fields.get("command", ""), order, tuple(more[0]))

    def _claim(self, id: OperationId, host: HostName, room: HostCapacity | None) -> Any:
        where = [keys.operation(id), keys.claim(id), keys.WAITING, keys.slots(host), keys.held(host), keys.DRAINED]
        prefixes = (keys.operation, keys.instance, keys.held)
        claim = (id, host, in_ms(keys.CLAIM_TTL), _CLAIMABLE, now().isoformat(), uuid.uuid4().hex)
        capacity: tuple[str | int, ...] = ()
        if room:
            gpus = ((id, "" if memory is None else memory) for id, memory in zip_longest(room.gpus, room.gpu_memory))
            disk = "" if room.model_disk is None else room.model_disk
            capacity = (room.slots, room.memory, room.available, "1" if room.unified else "", disk, *chain(*gpus))
        return self._run("claims/claim", [*where, keys.SERVICES_AT], *claim, *prefixes, *capacity)

    def renew(self, id: OperationId, host: HostName, attempt: int) -> ClaimStatus:
        """Renews a claim for another CLAIM_TTL and returns its status."""
        where = [keys.operation(id), keys.claim(id), keys.slots(host)]
        return ClaimStatus(self._run("claims/renew", where, id, str(attempt), host, in_ms(keys.CLAIM_TTL)))

    def release(self, id: OperationId, host: HostName, attempt: int, *, to_any_host: bool = False) -> bool:
        """False if another attempt holds the claim by now. Only `to_any_host` lets other hosts claim it."""
        where = [keys.operation(id), keys.claim(id), keys.slots(host)]
        return bool(self._run("claims/release", where, id, str(attempt), host, "1" if to_any_host else ""))

    def release_all_of_host(self, host: HostName) -> list[OperationId]:
        """Releases the claims of a worker that has died, and returns what it was executing."""
        where = [keys.ACTIVE, keys.slots(host)]
        found = self._run("claims/release_all_of_host", where, host, keys.operation, keys.claim)
        return [id for text in found if (id := readable("operation", text, OperationId, text))]

    def unassign(self, operation: Operation, lost: HostName) -> bool:
        """Lets any host claim an operation; False if it is not the lost host's, or is still claimed by it."""
        instance = keys.instance(operation.service.on(lost)) if operation.service else ""
        where = [keys.operation(operation.id), keys.claim(operation.id), keys.WAITING, instance]
        return bool(self._run("claims/unassign", where, operation.id, lost, in_ms(keys.CLAIM_TTL)))
