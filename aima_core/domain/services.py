"""Services and their instances: the spec and desired state that people set, and the status that hosts report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from aima_core.domain.catalog import Scalar
from aima_core.domain.ids import EngineName, HostName, InstanceId, OperationId, Route, ServiceId, WireModel
from aima_core.errors import Failure


class Service(WireModel):
    """What was asked for under one service id; `service start` without options uses it again."""

    id: ServiceId
    engine: EngineName | None = None
    """None leaves the choice to the catalog."""
    model: str | None = None
    """The catalog's name of the model; None means the id names it."""
    model_path: str | None = None
    hosts: tuple[HostName, ...] = ()
    """Empty leaves the choice to the queue."""
    route: Route | None = None
    """The only class of hosts, or host, that it is sent to; None leaves the choice to the engine's."""
    replicas: int = Field(1, ge=1, le=1000)
    port: int | None = Field(None, ge=1, le=65535)
    arguments: Mapping[str, Scalar] = {}
    created_at: datetime


class Desired(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class InstanceState(StrEnum):
    STARTING = "starting"
    """An operation is bringing it up."""
    READY = "ready"
    UNHEALTHY = "unhealthy"
    """It was ready, it runs, and its health check has failed for a while."""
    RESTARTING = "restarting"
    """It had ended after it was ready, and is being brought back."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Its host does not report."""


GONE = (InstanceState.STOPPED, InstanceState.FAILED)
"""Nothing of such an instance is left on its host."""


class Instance(WireModel):
    """A service on one host: at most one container, one leased port, one endpoint."""

    id: InstanceId
    desired: Desired
    fence: int
    """The operation's that last had a say; a lower one is late and does nothing."""
    state: InstanceState
    engine: EngineName | None = None
    image: str | None = None
    digest: str | None = None
    port: int | None = None
    endpoint: str | None = None
    operation: OperationId | None = None
    failure: Failure | None = None
    since: datetime
    """When it entered this state."""

    @property
    def is_down(self) -> bool:
        """Stopped, and meant to be."""
        return self.desired is Desired.STOPPED and self.state is InstanceState.STOPPED
