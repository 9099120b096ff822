"""Request bodies, validated field by field before the request is handled; unknown fields are refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aima_api.specs.documents import MOST_DOCUMENTS, AnyDocument
from aima_api.specs.fields import (
    HealthOptions,
    LabelName,
    LabelValue,
    LimitOptions,
    ModelPath,
    OwnerName,
    ResourceOptions,
)
from aima_core.domain.catalog import ImageReference
from aima_core.domain.fields import ArgumentName, ModelName, PullPolicy, Scalar, SecretEntry, SecretName, Variable, Word
from aima_core.domain.ids import EngineName, HostName, Route, ServiceId, Site
from aima_core.domain.services import METADATA, Service
from aima_core.domain.units import Duration, parse_duration
from aima_core.trust.orders import DEFAULT_EXPIRY, MAX_EXPIRY

Hosts = Annotated[tuple[HostName, ...], Field(max_length=1000)]
MOST_PLANNED = 1000
"""Services planned by one request."""
SPEC_FIELDS = set(Service.model_fields) - METADATA

Expiry = Annotated[Duration, Field(gt=timedelta(), le=MAX_EXPIRY)]

DEFAULT_GRACE = parse_duration("10s")
MAX_GRACE = parse_duration("1h")


class RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class ServiceOptions(RequestBody):
    """A change of a service's spec, as a JSON merge patch: an absent field stays, null removes it or one key of it."""

    engine: EngineName | None = None
    model: ModelName | None = None
    model_path: ModelPath | None = None
    hosts: Hosts | None = None
    route: Route | None = None
    """The class of hosts to run on; the engine must accept it."""
    replicas: int | None = Field(None, ge=1, le=1000)
    port: int | None = Field(None, ge=1, le=65535)
    expose: bool | None = None
    """Whether other machines reach its port on the host, too, besides a gateway."""
    arguments: dict[ArgumentName, Scalar | None] | None = Field(None, max_length=100)
    pull: PullPolicy | None = None
    """When a host asks the registry for the image; by default as the engine says."""
    environment: dict[Variable, Word | None] | None = Field(None, max_length=100)
    """Variables of the engine, stored and shown in clear text."""
    secrets: dict[SecretName, SecretEntry | None] | None = Field(None, max_length=50)
    """The entries of the hosts that the engine gets, by the name under which it finds them; never their values."""
    resources: ResourceOptions | None = None
    limits: LimitOptions | None = None
    health: HealthOptions | None = None
    priority: int | None = Field(None, ge=-100, le=100)
    labels: dict[LabelName, LabelValue | None] | None = Field(None, max_length=50)

    def changes(self) -> dict[str, Any]:
        """The merge patch: the fields of the spec that were given."""
        return self.model_dump(mode="json", exclude_unset=True, include=SPEC_FIELDS)

    @model_validator(mode="after")
    def check_target(self) -> Self:
        if self.hosts and self.replicas is not None and self.replicas != len(set(self.hosts)):
            raise ValueError("specify `hosts` or `replicas`, not both")
        if self.hosts and self.route:
            raise ValueError("specify `hosts` or `route`, not both")
        return self


class StartLimits(RequestBody):
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host; not part of the service."""
    on_failure: Literal["restore", "keep"] = "restore"
    """`restore` what ran before, or `keep` the failed container for debugging; not part of the service."""


class StartOptions(ServiceOptions, StartLimits):
    pass


class CreateService(ServiceOptions):
    id: ServiceId


class PlanOptions(RequestBody):
    services: Annotated[tuple[CreateService, ...], Field(min_length=1, max_length=MOST_PLANNED)]
    """Planned in this order."""

    @field_validator("services")
    @classmethod
    def check_differ(cls, services: tuple[CreateService, ...]) -> tuple[CreateService, ...]:
        if len({each.id for each in services}) < len(services):
            raise ValueError("names a service twice; name each once")
        return services


class StopOptions(RequestBody):
    hosts: Hosts = ()
    """Empty stops it on all hosts."""
    grace: Annotated[Duration, Field(le=MAX_GRACE)] = DEFAULT_GRACE
    """How long the engine has to end after SIGTERM before it is killed."""


class RestartOptions(RequestBody):
    hosts: Hosts = ()


class RollbackOptions(StartLimits):
    to: int | None = Field(None, ge=1)
    """The number of the revision; the one before the current one by default."""


class ApplyOptions(RequestBody):
    documents: Annotated[tuple[AnyDocument, ...], Field(min_length=1, max_length=MOST_DOCUMENTS)]
    owner: OwnerName | None = None
    """Recorded with each applied document; left out, recorded owners stay."""
    prune: bool = False
    """Also stop and remove what the owner applied before and no document names; requires the scope `admin`."""
    expected: str | None = Field(None, max_length=64)
    """The digest of a plan: apply these changes, or none."""

    @model_validator(mode="after")
    def check_owner(self) -> Self:
        if self.prune and self.owner is None:
            raise ValueError("`prune` requires an `owner`: only what it applied before is removed")
        return self


class DrainOptions(RequestBody):
    stop: bool = False
    """Also stop the services that run there."""


class ProfileOptions(RequestBody):
    hosts: Hosts = ()
    """Empty takes every live host that matches the profile and is not drained."""


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


class PullModelOptions(RequestBody):
    hosts: Hosts = ()
    route: Route | None = None
    """Every live host of this class."""
    site: Site | None = None
    """Every live host of this site, or those of the route there."""
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host."""

    @model_validator(mode="after")
    def check_target(self) -> Self:
        if self.hosts and (self.route or self.site):
            raise ValueError("specify `hosts`, or `route` and `site`, not both")
        return self


class RemoveModelOptions(RequestBody):
    hosts: Hosts = ()
    """Empty removes from every live host whose store has it."""
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host."""


class PinModelOptions(RequestBody):
    hosts: Hosts = ()
    """Empty takes every live host whose store has it."""
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host."""


class PruneModelsOptions(RequestBody):
    hosts: Hosts = ()
    """Empty takes every live host whose store has models."""
    all: bool = False
    """All that nothing uses, whatever is free, and interrupted fetches of any age."""
    dry_run: bool = False
    """Only report what would be removed, and why the others are kept."""
    expires: Expiry = DEFAULT_EXPIRY
    """How long it may wait for a host."""


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
