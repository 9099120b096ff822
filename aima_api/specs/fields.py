"""Types of fields that requests and documents have in common; unknown fields of a section are refused."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WrapValidator, model_validator

from aima_core.domain.fields import collect_bad_id
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import HealthPatience, LimitOverrides, RequestedResources

ModelPath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._/@+-]+$", max_length=500), Field(examples=["Qwen3-32B"])
]
"""Relative to one of the host's `model_roots`, or absolute; the host resolves and checks it."""

LabelName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$"), Field(examples=["team"])
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]*$", max_length=63), Field(examples=["speech"])]
OwnerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]

MAX_WEIGHT = 1_000_000
MAX_TARGETS = 32

Weight = Annotated[int, Field(ge=0, le=MAX_WEIGHT)]
NamedService = Annotated[ServiceId, WrapValidator(collect_bad_id), Field(examples=["svc-vllm-qwen3-32b"])]
Targets = Annotated[dict[NamedService, Weight], Field(min_length=1, max_length=MAX_TARGETS)]
Fallback = Annotated[tuple[NamedService, ...], Field(max_length=MAX_TARGETS)]


class ResourceOptions(RequestedResources):
    model_config = ConfigDict(extra="forbid")


class LimitOptions(LimitOverrides):
    model_config = ConfigDict(extra="forbid")


class HealthOptions(HealthPatience):
    model_config = ConfigDict(extra="forbid")


class AliasTargets(BaseModel):
    """Where the requests for an alias go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: Targets
    """Services by weight: each gets its share of the requests, and one of weight 0 none."""
    fallback: Fallback = ()
    """Services that get a request while none of the targets can take it, in order."""

    @model_validator(mode="after")
    def check_targets(self) -> Self:
        if not any(self.targets.values()):
            raise ValueError("has only targets of weight 0, which get no requests; give one a weight")
        named = [service for service, weight in self.targets.items() if weight] + list(self.fallback)
        if len(set(named)) < len(named):
            raise ValueError("names a service twice; name it as a target or as a fallback")
        return self

    @property
    def services(self) -> tuple[ServiceId, ...]:
        return tuple(dict.fromkeys([*self.targets, *self.fallback]))
