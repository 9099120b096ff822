"""The kinds of documents, their fields and their JSON Schema.

A document is the whole of what it describes: a field that it leaves out has its default. To add a kind, add its model
here, and its handler to those of `aima_api.submission.document_kinds`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, WrapValidator, model_validator

from aima_api.specs.fields import (
    AliasTargets,
    HealthOptions,
    LabelName,
    LabelValue,
    LimitOptions,
    ModelPath,
    NamedService,
    ResourceOptions,
)
from aima_core.domain.fields import (
    AliasName,
    Arguments,
    ModelName,
    NamedEngine,
    PullPolicy,
    SecretEntry,
    SecretName,
    Variable,
    Word,
    collect_bad_id,
)
from aima_core.domain.ids import HostName, Route
from aima_core.domain.units import exact_size

NamedHost = Annotated[HostName, WrapValidator(collect_bad_id), Field(examples=["spark-01"])]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=50)]
_BYTES = re.compile(r"(\d+)B")
MOST_DOCUMENTS = 1000
"""Applied by one request."""


class SpecDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    kind: str

    @property
    def subject(self) -> str:
        """The id or name: there is one document of a kind for each."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """As JSON, without defaults."""
        return {"kind": self.kind, **written(self.model_dump(mode="json", exclude_defaults=True, exclude={"kind"}))}


class ServiceDocument(SpecDocument):
    """A service: its whole spec, and whether it is to run."""

    kind: Literal["service"]
    id: NamedService
    engine: NamedEngine | None = None
    """Left out, the catalog chooses it by the id."""
    model: ModelName | None = None
    """Left out, it is the id's."""
    model_path: ModelPath | None = None
    """Directory of the weights on the hosts."""
    hosts: Annotated[tuple[NamedHost, ...], Field(max_length=1000)] = ()
    """Left out, the queue chooses."""
    route: Annotated[Route, WrapValidator(collect_bad_id), Field(examples=["gb10.arm64"])] | None = None
    """The class of hosts to run on."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Left out, each host chooses one."""
    expose: bool = False
    """Whether other machines reach its port on the host, too, besides a gateway."""
    pull: PullPolicy | None = None
    arguments: Annotated[Arguments, Field(max_length=100)] = {}
    environment: Annotated[dict[Variable, Word], Field(max_length=100)] = {}
    """Variables of the engine, stored and shown in clear text."""
    secrets: Annotated[dict[SecretName, SecretEntry], Field(max_length=50)] = {}
    """Entries of the hosts, by the name under which the engine finds them."""
    resources: ResourceOptions = ResourceOptions()
    limits: LimitOptions = LimitOptions()
    health: HealthOptions = HealthOptions()
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    labels: Labels = {}
    desired: Literal["running", "stopped"] = "running"
    """`stopped` stores the spec, and stops what runs."""

    @property
    def subject(self) -> str:
        return self.id

    @property
    def spec(self) -> dict[str, Any]:
        spec = self.plain()
        for name in ("kind", "id", "desired"):
            spec.pop(name, None)
        return spec

    @model_validator(mode="after")
    def check_target(self) -> Self:
        if self.hosts and self.route:
            raise ValueError("has `hosts` and a `route`; write one of them")
        if self.hosts and self.replicas not in (1, len(set(self.hosts))):
            raise ValueError("has `hosts` and another number of `replicas`; write one of them")
        return self


class HostDocument(SpecDocument):
    """The labels of a host, on top of its announced ones."""

    kind: Literal["host"]
    name: NamedHost
    labels: Labels = {}

    @property
    def subject(self) -> str:
        return self.name


class AliasDocument(AliasTargets, SpecDocument):
    """An alias: a name of a model for applications, and the services that its requests go to."""

    kind: Literal["alias"]
    name: AliasName

    @property
    def subject(self) -> str:
        return self.name


KINDS: Mapping[str, type[SpecDocument]] = {"service": ServiceDocument, "host": HostDocument, "alias": AliasDocument}
AnyDocument = Annotated[ServiceDocument | HostDocument | AliasDocument, Field(discriminator="kind")]


def written(spec: Mapping[str, Any]) -> dict[str, Any]:
    """With sizes as people write them: records hold bytes."""
    sections = {name: dict(spec[name]) for name in ("resources", "limits") if name in spec}
    for section in sections.values():
        for name, value in section.items():
            if isinstance(value, str) and (size := _BYTES.fullmatch(value)):
                section[name] = exact_size(int(size[1]))
    return {**spec, **sections}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of one document, for editors."""
    schema = TypeAdapter(AnyDocument).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Document", **schema}
