"""Operations: the command, the record and its events.

An operation is one start, pull, stop or removal, of one instance, image or model, a pin of a model, or a collection of
unused ones. Its command is immutable; its state
changes only as `TRANSITIONS` allows, which is checked in Redis when an event is appended, so that a late event cannot
reopen it.
"""

from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from aima_core.domain.catalog import Engine, ImageReference, Model
from aima_core.domain.fields import PullPolicy, SecretEntry, SecretName
from aima_core.domain.ids import EngineName, HostName, ModelId, OperationId, Route, ServiceId, SignedText, WireModel
from aima_core.domain.models import CollectionEntry, FetchProgress, Manifest, Weights
from aima_core.domain.resources import ResourceRequest, resources_of
from aima_core.domain.units import Duration, Size
from aima_core.errors import Failure


class Kind(StrEnum):
    START = "start"
    PULL = "pull"
    STOP = "stop"
    REMOVE = "remove"
    """Of an image."""
    PULL_MODEL = "pull-model"
    REMOVE_MODEL = "remove-model"
    PIN_MODEL = "pin-model"
    UNPIN_MODEL = "unpin-model"
    PRUNE_MODELS = "prune-models"
    """The collection of models that nothing uses."""


class State(StrEnum):
    QUEUED = "queued"
    """Recorded; no worker has claimed it."""
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
    FETCHING = "fetching"
    """The weights of a model, from their origin."""
    PULLING = "pulling"
    STARTING = "starting"
    LOADING = "loading"
    """The container runs and its health check does not answer yet."""
    STOPPING = "stopping"
    REMOVING = "removing"
    READY = "ready"
    PULLED = "pulled"
    STOPPED = "stopped"
    REMOVED = "removed"
    DONE = "done"
    """Of an operation that changes no files, such as a pin."""
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
    Phase.REMOVED: State.SUCCEEDED,
    Phase.DONE: State.SUCCEEDED,
    Phase.FAILED: State.FAILED,
    Phase.CANCELLED: State.CANCELLED,
}


ADDRESSED_BY = {"serves", "names", "ready"}
"""Fields of an engine by which gateways address it, and by which its answers are checked."""

FETCHED_BY = {"source", "files", "contents"}
"""Fields of a model that say what hosts fetch which have not its files at its path."""
SHOWN_OF_MODEL = {"licence", "token"}
"""Fields of a model that change nothing of what an engine reads."""


# Commands ---------------------------------------------------------------------------------------------------------


class StartService(WireModel):
    kind: Literal[Kind.START] = Kind.START
    service: ServiceId
    engine: Engine
    """Its arguments include `--set`, its `pull` the service's own."""
    model: Model | None = None
    model_path: str | None = None
    """The weights' directory on the host: absolute, or relative to one of its `model_roots`."""
    port: int | None = None
    """The requested host port; None leases the last one again, or a free one."""
    expose: bool | None = None
    """Whether the port is published on the host's address, and not on its loopback only; None in commands of earlier
    versions, whose containers stay published there."""
    manifest: Manifest | None = None
    """Of the model's source: what the host fetches if it has neither these files nor the model at its path."""
    secrets: Mapping[SecretName, SecretEntry] = {}
    """The entries of the host that the engine gets, by the name under which it finds them."""
    replace: bool = False
    """Tear down a running instance first."""
    keep_failed: bool = False
    """Leave the container of a failed start for debugging, instead of restoring the previous revision."""
    priority: int = 0
    """Pending starts with a higher one are claimed first."""
    spec: SignedText | None = None
    """The service's signed spec, verbatim: the worker makes it the current one once the engine is ready."""
    change: tuple[OperationId, ...] = ()
    """The starts of a change of several instances, this one among them: the spec becomes the current one once all have
    succeeded, and each host brings its previous revision back if one has not."""

    @property
    def fetches(self) -> Manifest | None:
        """What the host may fetch; None where a path of the service replaces the model's own files."""
        return None if self.model_path else self.manifest

    @property
    def weights(self) -> Weights | None:
        """What its host must have on its disk; None if the engine reads nothing that a source has."""
        model, manifest = self.model, self.fetches
        if model is None or model.source is None or self.model_path or self.engine.model_mount is None:
            return None
        name, size = (manifest.name, manifest.size) if manifest else (None, model.size)
        return Weights(model=model.id, name=name, size=size, path=model.path)

    @property
    def needs(self) -> ResourceRequest:
        return resources_of(self.engine, self.model, self.weights)

    @property
    def model_id(self) -> ModelId:
        return self.model.id if self.model else self.service.model

    @property
    def serves(self) -> tuple[str, ...]:
        """The APIs for which gateways send requests to it."""
        return self.model.served_of(self.engine) if self.model else self.engine.serves

    @property
    def names(self) -> tuple[str, ...]:
        """The model names that the engine is given, the first one being that of its answers; empty if it takes none.

        No alias is among them, since setting one must not restart engines.
        """
        all_names = (self.model_id, self.service)
        placeholders = (self.engine.names or "").split()
        return all_names if "{names}" in placeholders else all_names[:1] if placeholders else ()

    @property
    def names_arguments(self) -> tuple[str, ...]:
        """The arguments that give it these names."""
        words = (self.engine.names or "").split()
        filled = (self.names if word == "{names}" else (word.replace("{name}", self.model_id),) for word in words)
        return tuple(chain.from_iterable(filled))

    @property
    def digest(self) -> str:
        """Equal for two commands that run the same. Defaults do not count, so that a new field changes no digest.

        Nor does how the engine is addressed and checked, a port that is not exposed, the manifest of a source, or the
        source of a model with a path: an edit or an upgrade of that alone must not replace what runs.
        """
        port = () if self.expose else ("expose",)
        how = dict.fromkeys(("spec", "replace", "keep_failed", "priority", "change", "manifest", *port), True)
        left_out: dict[str, Any] = {**how, "engine": ADDRESSED_BY, "model": set(SHOWN_OF_MODEL)}
        if self.model and self.model.path:
            left_out["model"] |= FETCHED_BY
        runs = self.model_dump_json(exclude=left_out, exclude_defaults=True)
        return sha256(runs.encode()).hexdigest()[:16]


class PullImage(WireModel):
    kind: Literal[Kind.PULL] = Kind.PULL
    images: tuple[ImageReference, ...]
    """In order of preference."""
    pull: PullPolicy = "missing"
    """`always` asks the registry although an image is present, and fails if it does not answer."""
    image_size: Size | None = None


class StopService(WireModel):
    kind: Literal[Kind.STOP] = Kind.STOP
    service: ServiceId
    grace: Duration
    """The grace period between SIGTERM and SIGKILL."""


class RemoveImage(WireModel):
    kind: Literal[Kind.REMOVE] = Kind.REMOVE
    image: ImageReference
    """As the host lists it: a tag, or the digest of an image without one."""


class PullModel(WireModel):
    kind: Literal[Kind.PULL_MODEL] = Kind.PULL_MODEL
    manifest: Manifest
    token: SecretEntry | None = None
    """The entry of the host's secrets that holds the token for the origin."""

    @property
    def model(self) -> ModelId:
        return self.manifest.model


class RemoveModel(WireModel):
    kind: Literal[Kind.REMOVE_MODEL] = Kind.REMOVE_MODEL
    model: ModelId
    """All of its revisions, and the pieces of interrupted fetches. Refused while a concurrent start uses it."""


class PinModel(WireModel):
    """Pins or unpins it: a pinned model is neither collected nor removed."""

    kind: Literal[Kind.PIN_MODEL, Kind.UNPIN_MODEL] = Kind.PIN_MODEL
    model: ModelId
    """All of its revisions, also later ones."""


class PruneModels(WireModel):
    """Collects models that nothing uses, the least recently used first, until the disk is above its high watermark."""

    kind: Literal[Kind.PRUNE_MODELS] = Kind.PRUNE_MODELS
    all: bool = False
    """Whatever is free, and interrupted fetches of any age."""
    dry_run: bool = False
    """Report what would be collected, and remove nothing."""


AnyCommand = StartService | PullImage | StopService | RemoveImage | PullModel | RemoveModel | PinModel | PruneModels
Command = Annotated[AnyCommand, Field(discriminator="kind")]
COMMAND: TypeAdapter[AnyCommand] = TypeAdapter(Command)


# Progress and events ----------------------------------------------------------------------------------------------


class LayerStep(StrEnum):
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    EXTRACTING = "extracting"
    DONE = "done"
    EXISTS = "exists"
    """It was on the host before the pull."""


class Layer(WireModel):
    id: str
    step: LayerStep
    downloaded: int = 0
    """Bytes on the wire."""
    extracted: int = 0
    """Bytes of the compressed layer unpacked so far."""
    total: int | None = None
    """Bytes compressed; None until the registry or the engine reports it."""


class PullProgress(WireModel):
    """The progress of a pull, in bytes, summed over the layers that were not on the host before."""

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
    """The number of layer retries: only a retry may decrease the numbers."""


class Event(WireModel):
    """One change of an operation. `seq` counts from 1 without gaps within the operation."""

    operation: OperationId
    seq: int = 0
    at: AwareDatetime
    phase: Phase
    message: str | None = None
    """A sentence for people, such as the pending reason."""
    progress: PullProgress | None = None
    fetch: FetchProgress | None = None
    collection: tuple[CollectionEntry, ...] | None = None
    """Set at the end of a collection of models, or of its dry run."""
    lines: tuple[str, ...] = ()
    """The container's log lines, sanitized."""
    host: HostName | None = None
    endpoint: str | None = None
    """Set with `ready`: the engine's URL."""
    failure: Failure | None = None
    """Set with `failed` and `cancelled`."""


class Operation(WireModel):
    """The record of one operation, as listings and `operation show` return it."""

    id: OperationId
    kind: Kind
    state: State
    phase: Phase
    fence: int
    """The fencing token: of two operations on one instance, the higher wins. Reserved before the order is signed."""
    attempt: int = 0
    """The number of claims so far, and of moves from a lost host."""
    seq: int = 0
    """The number of its last event."""
    route: Route
    """The route of its message."""
    routes: tuple[Route, ...] = ()
    """All routes that it accepts, best first."""
    needs: ResourceRequest | None = None
    """The resource request; None for a stop."""
    service: ServiceId | None = None
    engine: EngineName | None = None
    priority: int = 0
    """Of a start: pending starts are offered to hosts by priority, then by age."""
    image: str | None = None
    model: ModelId | None = None
    """Of a pull, a removal or a pin of a model."""
    host: HostName | None = None
    """The host that claimed it; only a lost host's operation moves to another."""
    reason: str | None = None
    """The pending reason, or the last message."""
    progress: PullProgress | None = None
    fetch: FetchProgress | None = None
    collection: tuple[CollectionEntry, ...] | None = None
    """What a collection of models has removed and kept."""
    endpoint: str | None = None
    failure: Failure | None = None
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    """Until when an attempt may begin; None in records of operations that Redis has lost."""
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
