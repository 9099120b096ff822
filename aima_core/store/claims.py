"""What comes of asking for an operation: it is the asker's, or it is not, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aima_core.domain.ids import HostName
from aima_core.domain.operations import COMMAND, Command, Operation


@dataclass(frozen=True)
class Claimed:
    """The caller, and nobody else, carries the operation out while it renews the claim."""

    attempt: int
    operation: Operation
    command_text: str
    signature: str
    gpus: tuple[str, ...] = ()
    """The ids of those given to it."""

    @property
    def command(self) -> Command:
        return COMMAND.validate_json(self.command_text)


@dataclass(frozen=True)
class NotClaimable:
    """Nothing is to be done: a doubled or late message."""

    reason: str
    cancel_pending: bool = False
    """It was cancelled, and nobody has told its end yet."""


class Lack(StrEnum):
    """What a host has not to spare."""

    SLOTS = "slots"
    MEMORY = "memory"
    GPUS = "gpus"
    LOAD = "load"
    """Another engine takes its share of the memory that CPU and GPU share."""
    DRAINED = "drained"


@dataclass(frozen=True)
class InsufficientCapacity:
    """The host cannot take it on now; it has been put down among those that wait."""

    lack: Lack
    operation: Operation


@dataclass(frozen=True)
class AlreadyPlaced:
    """A start that any host may take, and whose service another host has already."""

    host: HostName
    operation: Operation


class ClaimStatus(StrEnum):
    """How a claim stands when it is renewed."""

    VALID = "go on"
    CANCEL = "cancel"
    """Somebody has asked for its end."""
    SUPERSEDED = "lost"
    """Another attempt has begun; this one must fall silent."""
    RECORD_MISSING = "gone"
    """Redis has no record of it any more."""
