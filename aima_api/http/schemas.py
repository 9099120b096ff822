"""What requests may say, checked field by field before anything else happens."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from aima_core.domain.catalog import ArgumentName, ImageReference, ModelName, Scalar
from aima_core.domain.ids import EngineName, HostName, Route, ServiceId
from aima_core.domain.units import Duration, parse_duration

Hosts = Annotated[tuple[HostName, ...], Field(max_length=1000)]
ModelPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/@+-]+$", max_length=500)]
"""Relative to one of the host's `model_roots`, or absolute; the host checks where it leads."""

DEFAULT_GRACE = parse_duration("10s")
LONGEST_GRACE = parse_duration("1h")


class RequestBody(BaseModel):
    """A request's body. A field that nothing reads is refused, since it was meant to do something."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """The fields that say something."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in fields.items() if value not in (None, (), {})}


class ServiceOptions(RequestBody):
    engine: EngineName | None = None
    model: ModelName | None = None
    model_path: ModelPath | None = None
    hosts: Hosts = ()
    route: Route | None = None
    """The class of hosts to run on; the engine must accept it."""
    replicas: int | None = Field(None, ge=1, le=1000)
    port: int | None = Field(None, ge=1, le=65535)
    arguments: dict[ArgumentName, Scalar] = Field({}, max_length=100)

    @model_validator(mode="after")
    def say_where_in_one_way(self) -> Self:
        if self.hosts and self.replicas is not None and self.replicas != len(set(self.hosts)):
            raise ValueError("give `hosts` or `replicas`, not both")
        if self.hosts and self.route:
            raise ValueError("give `hosts` or `route`, not both")
        return self


class CreateService(ServiceOptions):
    id: ServiceId


class StopOptions(RequestBody):
    hosts: Hosts = ()
    """Empty stops it everywhere."""
    grace: Annotated[Duration, Field(le=LONGEST_GRACE)] = DEFAULT_GRACE
    """How long the engine may take to end by itself before it is killed."""


class RestartOptions(RequestBody):
    hosts: Hosts = ()


class DrainOptions(RequestBody):
    stop: bool = False
    """Take down what runs there, too."""


class PullOptions(RequestBody):
    image: ImageReference | None = None
    engine: EngineName | None = None
    hosts: Hosts = ()
    route: Route | None = None

    @model_validator(mode="after")
    def say_what_and_where_in_one_way(self) -> Self:
        if (self.image is None) == (self.engine is None):
            raise ValueError("give either `image` or `engine`")
        if self.hosts and self.route:
            raise ValueError("give `hosts` or `route`, not both")
        return self
