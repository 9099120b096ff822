"""Request bodies, validated field by field before the request is handled; unknown fields are refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from aima_core.domain.catalog import (
    ArgumentName,
    ImageReference,
    ModelName,
    PullPolicy,
    Scalar,
    SecretEntry,
    SecretName,
    Variable,
    Word,
)
from aima_core.domain.ids import EngineName, HostName, Route, ServiceId
from aima_core.domain.units import Duration, parse_duration
from aima_core.trust.orders import DEFAULT_EXPIRY, MAX_EXPIRY

Hosts = Annotated[tuple[HostName, ...], Field(max_length=1000)]
ModelPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/@+-]+$", max_length=500)]
"""Relative to one of the host's `model_roots`, or absolute; the host resolves and checks it."""

Expiry = Annotated[Duration, Field(gt=timedelta(), le=MAX_EXPIRY)]

DEFAULT_GRACE = parse_duration("10s")
MAX_GRACE = parse_duration("1h")


class RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def given(self) -> dict[str, Any]:
        """The fields that were set to a value."""
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
    pull: PullPolicy | None = None
    """When a host asks the registry for the image; by default as the engine says."""
    arguments: dict[ArgumentName, Scalar] = Field({}, max_length=100)
    environment: dict[Variable, Word] = Field({}, max_length=100)
    """Variables of the engine, stored and shown in clear text."""
    secrets: dict[SecretName, SecretEntry] = Field({}, max_length=50)
    """The entries of the hosts that the engine gets, by the name under which it finds them; never their values."""

    @model_validator(mode="after")
    def check_target(self) -> Self:
        if self.hosts and self.replicas is not None and self.replicas != len(set(self.hosts)):
            raise ValueError("specify `hosts` or `replicas`, not both")
        if self.hosts and self.route:
            raise ValueError("specify `hosts` or `route`, not both")
        return self


class StartOptions(ServiceOptions):
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host; not part of the service."""

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in super().given().items() if name != "expires"}


class CreateService(ServiceOptions):
    id: ServiceId


class StopOptions(RequestBody):
    hosts: Hosts = ()
    """Empty stops it on all hosts."""
    grace: Annotated[Duration, Field(le=MAX_GRACE)] = DEFAULT_GRACE
    """How long the engine has to end after SIGTERM before it is killed."""


class RestartOptions(RequestBody):
    hosts: Hosts = ()


class DrainOptions(RequestBody):
    stop: bool = False
    """Also stop the services that run there."""


class PullOptions(RequestBody):
    image: ImageReference | None = None
    engine: EngineName | None = None
    hosts: Hosts = ()
    route: Route | None = None
    force: bool = False
    """Ask the registry although the image is there: a tag may name another image by now."""
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host."""

    @model_validator(mode="after")
    def check_image_and_target(self) -> Self:
        if (self.image is None) == (self.engine is None):
            raise ValueError("specify either `image` or `engine`")
        if self.hosts and self.route:
            raise ValueError("specify `hosts` or `route`, not both")
        return self


class RemoveImages(RequestBody):
    images: Annotated[tuple[ImageReference, ...], Field(max_length=100)] = ()
    """As hosts list them."""
    unused: bool = False
    """Those of the catalog that no instance uses, and that can be pulled again."""
    hosts: Hosts = ()
    """Empty removes from every live host that has them."""
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host."""

    @model_validator(mode="after")
    def check_images(self) -> Self:
        if bool(self.images) == self.unused:
            raise ValueError("specify either `images` or `unused`")
        return self
