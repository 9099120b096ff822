"""What an API node asks for: an operation with its signed command, and what it wants of its instance."""

from __future__ import annotations

from dataclasses import dataclass

from aima_core.domain.operations import Kind, Operation
from aima_core.domain.services import Desired, Instance, InstanceState


@dataclass(frozen=True)
class QueuedOperation:
    """An operation to be put on its queue; Redis gives it its fence."""

    operation: Operation
    command: str
    """The JSON of what is to be done."""
    signature: str
    waits: bool = False
    """Nobody listens to its queue: the first host that will do may take it."""

    @property
    def wants(self) -> Instance | None:
        """What it wants of its instance; None where it leads to no one host."""
        asked, host = self.operation, self.operation.route.host
        if asked.service is None or host is None:
            return None
        starts = asked.kind is Kind.START
        return Instance(
            id=asked.service.on(host),
            desired=Desired.RUNNING if starts else Desired.STOPPED,
            fence=asked.fence,
            state=InstanceState.STARTING if starts else InstanceState.STOPPING,
            engine=asked.engine,
            operation=asked.id,
            since=asked.created_at,
        )
