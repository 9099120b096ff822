"""Operations and what happens to them: the command that was asked for, the record, and its events.

One operation is one start, pull or stop of one instance or image. Its command never changes; its state moves only
as `TRANSITIONS` allows, which the script that records events checks in Redis.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from aima_core.domain.catalog import Engine, ImageReference, Model
from aima_core.domain.ids import EngineName, HostName, OperationId, Route, ServiceId, WireModel
from aima_core.domain.resources import ResourceRequest
from aima_core.domain.services import Service
from aima_core.domain.units import Duration, Size
from aima_core.errors import Failure


class Kind(StrEnum):
    START = "start"
    PULL = "pull"
    STOP = "stop"


class State(StrEnum):
    QUEUED = "queued"
    """Recorded; no worker carries it out."""
    RUNNING = "running"
    """A worker holds its claim."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


TRANSITIONS: dict[State, tuple[State, ...]] = {
    State.QUEUED: (State.QUEUED, State.RUNNING, State.FAILED, State.CANCELLED),
    State.RUNNING: (State.RUNNING, State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED),
    State.SUCCEEDED: (),
    State.FAILED: (),
    State.CANCELLED: (),
}


class Phase(StrEnum):
    QUEUED = "queued"
    PULLING = "pulling"
    STARTING = "starting"
    LOADING = "loading"
    """The container runs and its health check does not answer yet."""
    STOPPING = "stopping"
    READY = "ready"
    PULLED = "pulled"
    STOPPED = "stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def state(self) -> State:
        return _STATE_OF.get(self, State.RUNNING)


_STATE_OF = {
    Phase.QUEUED: State.QUEUED,
    Phase.READY: State.SUCCEEDED,
    Phase.PULLED: State.SUCCEEDED,
    Phase.STOPPED: State.SUCCEEDED,
    Phase.FAILED: State.FAILED,
    Phase.CANCELLED: State.CANCELLED,
}


# Commands ---------------------------------------------------------------------------------------------------------


class StartService(WireModel):
    kind: Literal[Kind.START] = Kind.START
    service: ServiceId
    engine: Engine
    """With the arguments as they shall be: `--set` is already in them."""
    model: Model | None = None
    model_path: str | None = None
    """Where the weights are on the host: absolute, or relative to one of its `model_roots`."""
    port: int | None = None
    """The host port asked for; None takes the one it had before, or any free one."""
    replace: bool = False
    """Take down what runs first."""
    asked: Service | None = None
    """What was asked for under the service's id, to be written down again where Redis has lost it."""


class PullImage(WireModel):
    kind: Literal[Kind.PULL] = Kind.PULL
    images: tuple[ImageReference, ...]
    """In order of preference."""
    image_size: Size | None = None


class StopService(WireModel):
    kind: Literal[Kind.STOP] = Kind.STOP
    service: ServiceId
    grace: Duration
    """How long the engine may take to end by itself before it is killed."""


Command = Annotated[StartService | PullImage | StopService, Field(discriminator="kind")]
COMMAND: TypeAdapter[StartService | PullImage | StopService] = TypeAdapter(Command)


# Progress and events ----------------------------------------------------------------------------------------------


class LayerStep(StrEnum):
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    EXTRACTING = "extracting"
    DONE = "done"
    EXISTS = "exists"
    """It was on the host before."""


class Layer(WireModel):
    id: str
    step: LayerStep
    downloaded: int = 0
    """Bytes on the wire."""
    extracted: int = 0
    """Bytes of the compressed layer unpacked so far."""
    total: int | None = None
    """Bytes compressed; None until the registry or the engine has told."""


class PullProgress(WireModel):
    """Where a pull stands. All numbers are bytes, summed over the layers that were not on the host before."""

    image: str
    downloaded: int
    extracted: int
    total: int
    """The sum of the layers whose size is known: a lower bound unless `total_known`."""
    total_known: bool
    rate: float | None = None
    """Bytes downloaded per second over the last seconds; None while nothing is downloading."""
    eta: Duration | None = None
    layers: tuple[Layer, ...] = ()
    restarts: int = 0
    """How often a layer had to be fetched anew: only then may the numbers go back."""


class Event(WireModel):
    """One thing that happened to an operation. `seq` counts from 1 without gaps within the operation."""

    operation: OperationId
    seq: int = 0
    at: datetime
    phase: Phase
    message: str | None = None
    """A sentence for people, such as what is waited for."""
    progress: PullProgress | None = None
    lines: tuple[str, ...] = ()
    """The container's own log lines, made harmless."""
    host: HostName | None = None
    endpoint: str | None = None
    """Set with `ready`: where the engine answers."""
    failure: Failure | None = None
    """Set with `failed` and `cancelled`."""


class Operation(WireModel):
    """The record of one operation, as listings and `operation show` give it."""

    id: OperationId
    kind: Kind
    state: State
    phase: Phase
    fence: int
    """Grows with every operation submitted: of two that want different things of one instance, the higher wins."""
    attempt: int = 0
    """How many workers have taken it on."""
    seq: int = 0
    """The number of its last event."""
    route: Route
    """Where it was sent."""
    routes: tuple[Route, ...] = ()
    """All that would do, the best first."""
    needs: ResourceRequest | None = None
    """What a host must have to spare for it; None for a stop."""
    service: ServiceId | None = None
    engine: EngineName | None = None
    image: str | None = None
    host: HostName | None = None
    """None until a host has taken it on; from then on nobody else does, unless that host is lost."""
    reason: str | None = None
    """What it waits for, or was last said of it."""
    progress: PullProgress | None = None
    endpoint: str | None = None
    failure: Failure | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
