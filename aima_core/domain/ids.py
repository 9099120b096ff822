"""Every id that AIMA uses, parsed and made here only, and the base class of the records that carry them.

`svc-{engine_type}-{model_id}` is a service and `…@{host}` its instance on one host. The engine type has no dash, so
the first dash after it splits the id. A malformed id raises BadId at the boundary, so that every id inside is valid.
"""

import re
import uuid
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from aima_core.errors import BadId


class Id(str):
    """A string that matches its kind's pattern as a whole; raises BadId otherwise."""

    __slots__ = ()

    kind: ClassVar[str]
    example: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]

    def __new__(cls, text: str) -> Self:
        if not cls.pattern.fullmatch(text):
            raise BadId(text=str(text)[:200], kind=cls.kind, example=cls.example)
        return super().__new__(cls, text)

    @classmethod
    def _of_valid(cls, text: str) -> Self:
        """Without a match: for a text that is composed of valid ids, or is a part of one."""
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(max_length=256))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = {"description": f"{cls.kind.capitalize()}, such as `{cls.example}`.", "examples": [cls.example]}
        return {**handler(schema), "pattern": f"^(?:{cls.pattern.pattern})$", **described}


_TYPE = r"[a-z][a-z0-9_]{0,31}"
_MODEL = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_HOST = r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?"


class EngineType(Id):
    kind, example, pattern = "engine type", "vllm", re.compile(_TYPE)


class ModelId(Id):
    kind, example, pattern = "model id", "qwen3-32b", re.compile(_MODEL)


class HostName(Id):
    kind, example, pattern = "host name", "spark-01", re.compile(_HOST)


class Site(Id):
    """Hosts that share a network, and one uplink."""

    kind, example, pattern = "site", "office", re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


class EngineName(Id):
    kind, example, pattern = "engine name", "vllm-0.14.0-cu131-gb10", re.compile(r"[a-z0-9][a-z0-9._-]{0,126}")


class ServiceId(Id):
    kind, example, pattern = "service id", "svc-vllm-qwen3-32b", re.compile(f"svc-({_TYPE})-({_MODEL})")

    @classmethod
    def of(cls, engine_type: EngineType, model: ModelId) -> Self:
        return cls(f"svc-{engine_type}-{model}")

    @property
    def engine_type(self) -> EngineType:
        return EngineType._of_valid(self.split("-", 2)[1])

    @property
    def model(self) -> ModelId:
        return ModelId._of_valid(self.split("-", 2)[2])

    def on(self, host: HostName) -> "InstanceId":
        return InstanceId._of_valid(f"{self}@{host}")


class InstanceId(Id):
    kind, example = "instance id", "svc-vllm-qwen3-32b@spark-01"
    pattern = re.compile(f"{ServiceId.pattern.pattern}@({_HOST})")

    @property
    def service(self) -> ServiceId:
        return ServiceId._of_valid(self.split("@")[0])

    @property
    def host(self) -> HostName:
        return HostName._of_valid(self.split("@")[1])


class OperationId(Id):
    """Also the id of the Celery task, so that Flower and AIMA show the same one."""

    kind, example = "operation id", "0b5f4c1e-3c1c-4a52-9c55-3f8a3a0f9f21"
    pattern = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

    @classmethod
    def new(cls) -> Self:
        return cls._of_valid(str(uuid.uuid4()))


class AnswerId(Id):
    """The id of a host's response to one log request of an API node."""

    kind, example, pattern = "answer id", "0b5f4c1e3c1c4a529c553f8a3a0f9f21", re.compile("[0-9a-f]{32}")

    @classmethod
    def new(cls) -> Self:
        return cls._of_valid(uuid.uuid4().hex)


class Route(Id):
    """The routing key of a task, and the name of its queue."""

    kind, example = "route", "gb10.arm64"
    pattern = re.compile(rf"host\.{_HOST}|[a-z][a-z0-9_]*\.(?:arm64|amd64)")

    @classmethod
    def to_host(cls, host: HostName) -> Self:
        return cls._of_valid(f"host.{host}")

    @property
    def host(self) -> HostName | None:
        """The host that it leads to; None for a class of hosts."""
        return HostName._of_valid(self[len("host.") :]) if self.startswith("host.") else None


class WireModel(BaseModel):
    """Base of every record and event, which carry these ids.

    Unknown fields are dropped, so that a newer sender does not break an older reader.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    def with_valid(self, **values: Any) -> Self:
        """As `model_copy` with these values, in half of its time: for a thousand records of one request."""
        copied = type(self).__new__(type(self))
        object.__setattr__(copied, "__dict__", {**self.__dict__, **values})
        object.__setattr__(copied, "__pydantic_fields_set__", self.__pydantic_fields_set__ | values.keys())
        object.__setattr__(copied, "__pydantic_extra__", None)
        object.__setattr__(copied, "__pydantic_private__", None)
        return copied


class SignedText(WireModel):
    """A text with its signature, kept verbatim; `aima_core.trust.records` verifies it."""

    text: str
    signature: str
