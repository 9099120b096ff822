"""Services and their instances: the spec and desired state that people set, and the status that hosts report."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, computed_field

from aima_core.domain.fields import PullPolicy, Scalar
from aima_core.domain.ids import EngineName, HostName, InstanceId, ModelId, OperationId, Route, ServiceId, WireModel
from aima_core.domain.units import Duration, Size
from aima_core.errors import Failure

METADATA = frozenset({"id", "created_at", "revision", "changed_at", "changed_by", "owner"})
"""Fields of a service that are not its spec: no request sets them."""


class RequestedResources(WireModel):
    """What a host must have, in place of what the engine requires; None leaves a value to the engine."""

    memory: Size | None = None
    gpus: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    gpu_memory: Size | None = None
    cores: Annotated[int, Field(ge=1)] | None = None


class LimitOverrides(WireModel):
    """Limits of the container in place of its engine's; None leaves a limit to the engine."""

    memory: Size | None = None
    cores: Annotated[float, Field(gt=0)] | None = None
    shared_memory: Size | None = None
    pids: Annotated[int, Field(ge=16)] | None = None


class HealthPatience(WireModel):
    """How long the engine may load, in place of its health check's times; None leaves a time to the engine."""

    timeout: Duration | None = None
    at_most: Duration | None = None


class Service(WireModel):
    """The spec of a service; `service start` without options uses it again."""

    id: ServiceId
    engine: EngineName | None = None
    """None lets the catalog choose."""
    model: str | None = None
    """The catalog's name of the model; None takes it from the id."""
    model_path: str | None = None
    hosts: tuple[HostName, ...] = ()
    """Empty lets the queue choose."""
    route: Route | None = None
    """The only class of hosts, or host, to use; None uses the engine's routes."""
    replicas: int = Field(1, ge=1, le=1000)
    port: int | None = Field(None, ge=1, le=65535)
    expose: bool = False
    """Whether its port is published on the host's address, and not on the host's loopback only."""
    pull: PullPolicy | None = None
    """None takes the engine's."""
    arguments: Mapping[str, Scalar] = {}
    environment: Mapping[str, str] = {}
    """Variables of the engine, on top of those in its catalog entry."""
    secrets: Mapping[str, str] = {}
    """References only: the name in the container, and the entry on the host. A value never leaves its host."""
    resources: RequestedResources = RequestedResources()
    limits: LimitOverrides = LimitOverrides()
    health: HealthPatience = HealthPatience()
    priority: int = Field(0, ge=-100, le=100)
    """Pending starts with a higher one are claimed first."""
    labels: Mapping[str, str] = {}
    created_at: AwareDatetime
    revision: int = Field(1, ge=1)
    """The number of this version, counted since the service was created."""
    changed_at: AwareDatetime | None = None
    """When this revision was made."""
    changed_by: str | None = None
    """The name of the API key with which it was made."""
    owner: str | None = None
    """Of the documents with which it was applied; kept by changes that name none."""

    @property
    def version(self) -> tuple[datetime, int]:
        """Of two specs of a service, the newer has the higher one. Signed with the spec, so Redis cannot change it."""
        return self.created_at, self.revision

    @property
    def content(self) -> dict[str, Any]:
        """The spec as JSON without defaults and metadata: equal for two revisions that run the same."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(METADATA))


class Desired(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class InstanceState(StrEnum):
    STARTING = "starting"
    """An operation starts it."""
    READY = "ready"
    UNHEALTHY = "unhealthy"
    """It was ready and runs, and its health check fails."""
    RESTARTING = "restarting"
    """It exited after it was ready, and is being restarted."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Its host is not live."""


GONE = (InstanceState.STOPPED, InstanceState.FAILED)
"""States without a container on the host."""


class Instance(WireModel):
    """A service on one host: at most one container, one leased port, one endpoint."""

    id: InstanceId
    desired: Desired
    fence: int
    """Of the last operation; one with a lower fence is late and changes nothing."""
    state: InstanceState
    engine: EngineName | None = None
    image: str | None = None
    digest: str | None = None
    """In the image's registry, when the instance became ready."""
    image_id: str | None = None
    """The local id of the image that its container was created from."""
    port: int | None = None
    endpoint: str | None = None
    dataplane: str | None = None
    """The URL of its host's data plane, by which gateways of other machines reach it; None if there is none."""
    loopback: str | None = None
    """Identifies the loopback of its host: a process with the same one reaches `endpoint`. None if unknown."""
    model: ModelId | None = None
    serves: tuple[str, ...] = ()
    """The APIs that it answers, such as `chat`; empty if its worker does not report them."""
    names: tuple[str, ...] = ()
    """The model names that its engine was given, the first one being that of its answers; empty if it takes none."""
    serving: bool = False
    """Whether gateways may send it requests: an engine answers at `endpoint`, and its host is not drained."""
    operation: OperationId | None = None
    revision: int | None = None
    """Of the spec that it runs; None if its worker does not report it."""
    runs: str | None = None
    """The digest of the start command that it runs."""
    kept: bool = False
    """Failed, and its container is left as it is for debugging."""
    failure: Failure | None = None
    since: AwareDatetime
    """The time of the last transition."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def host(self) -> HostName:
        return self.id.host

    def status_json(self) -> str:
        """The status, which Redis holds beside desired state and fence.

        A ready instance serves. A starting one may, by its previous revision; no other does.
        """
        serving = self.state is InstanceState.READY or (self.serving and self.state is InstanceState.STARTING)
        return self.model_copy(update={"serving": serving}).model_dump_json(exclude={"desired", "fence"})

    @property
    def is_down(self) -> bool:
        """Stopped as desired."""
        return self.desired is Desired.STOPPED and self.state is InstanceState.STOPPED
