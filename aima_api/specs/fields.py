"""Types of fields that requests and documents have in common; unknown fields of a section are refused."""

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

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


class ResourceOptions(RequestedResources):
    model_config = ConfigDict(extra="forbid")


class LimitOptions(LimitOverrides):
    model_config = ConfigDict(extra="forbid")


class HealthOptions(HealthPatience):
    model_config = ConfigDict(extra="forbid")
