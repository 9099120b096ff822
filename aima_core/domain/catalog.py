"""The catalog's schema: engines, models and profiles. A malformed value is refused.

An unknown field is refused in a file, where it is a mistake of its author; the loader locates it. In commands, records
and labels it is dropped, since a newer API node or worker wrote it (tolerant reader).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from docker_image import reference
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    StringConstraints,
    WrapValidator,
    model_validator,
)

from aima_core.domain.fields import (
    Arguments,
    ModelName,
    NamedEngine,
    PullPolicy,
    SecretEntry,
    SecretName,
    Variable,
    Word,
    collect_bad_id,
    variable_name,
)
from aima_core.domain.ids import EngineType, ModelId
from aima_core.domain.models import (
    MOST_FILES,
    FileContent,
    FilePath,
    FilePattern,
    Manifest,
    SourceText,
    directory_manifest,
)
from aima_core.domain.units import Duration, Size

Arch = Literal["arm64", "amd64"]
_SYSTEM_PATH = re.compile(
    r"/(bin|boot|dev|etc|lib\w*|proc|run|sbin|sys)(/.*)?|/(home|opt|root|srv|tmp|usr|var)|"
    r"/usr/(bin|include|lib\w*|sbin)(/.*)?|/usr/local(/(?!share/|src/).*)?|/var/(lib|run)"
)

_TMPFS_OVER_THE_SYSTEM = {"/tmp", "/run", "/var/tmp", "/var/run", "/root", "/home"}
"""Paths of the image's system that hold nothing which a container needs."""
_READ_ONLY_TMPFS = {"/tmp": ByteSize(64_000_000), "/run": ByteSize(16_000_000)}


def _image_reference(text: str) -> str:
    try:
        reference.Reference.parse_normalized_named(text)
    except reference.InvalidReference as wrong:
        raise ValueError(f"{text!r} is not an image reference ({wrong}); write it such as `repo/name:tag`") from wrong
    if not text.isprintable():
        raise ValueError(f"{text!r} is not an image reference (it holds a line end); write it such as `repo/name:tag`")
    return text


def _mount_target(text: str) -> str:
    if {".", "..", ""} & set(text.split("/")[1:]):
        raise ValueError(f"{text!r} has empty or dotted parts; write it such as `/models`")
    if _SYSTEM_PATH.fullmatch(text):
        raise ValueError(
            f"{text!r} belongs to the system of the image; write a directory of its own, such as `/models`"
        )
    return text


def _tmpfs_target(text: str) -> str:
    return text if text in _TMPFS_OVER_THE_SYSTEM else _mount_target(text)


def _above_nothing(size: ByteSize) -> ByteSize:
    if not size:
        raise ValueError("has room for nothing; write a size, such as `64MB`")
    return size


def _names(text: str) -> str:
    if "{names}" not in text.split() and "{name}" not in text:
        raise ValueError(f"{text!r} has no place for a name; write it such as `--served-model-name {{names}}`")
    return text


def _gpus(value: object) -> object:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"{value!r} is not a number of GPUs; write 1 or more, or `all`")


def _below_a_root(text: str) -> str:
    if text.startswith("/") or ".." in text.split("/"):
        raise ValueError(f"{text!r} leads out of the model roots; write it relative to one, such as `Qwen3-32B`")
    return text


ImageReference = Annotated[
    str, StringConstraints(max_length=300), AfterValidator(_image_reference), Field(examples=["repo/name:tag"])
]
AbsolutePath = Annotated[
    str, StringConstraints(pattern=r"^/[A-Za-z0-9._-][A-Za-z0-9._/-]*$", max_length=300), Field(examples=["/models"])
]
MountTarget = Annotated[AbsolutePath, AfterValidator(_mount_target)]
TmpfsTarget = Annotated[AbsolutePath, AfterValidator(_tmpfs_target), Field(examples=["/tmp"])]
TmpfsSize = Annotated[Size, AfterValidator(_above_nothing)]
RelativePath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._/-]+$", max_length=300),
    AfterValidator(_below_a_root),
    Field(examples=["Qwen3-32B"]),
]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/[!-~]*$", max_length=300), Field(examples=["/health"])]
ProfileName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=126), Field(examples=["nvidia-gb10"])
]
AcceleratorKind = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=32), Field(examples=["gb10"])
]
SecretUse = Literal["file", "environment"]
"""A file in the directory that the engine's variable CREDENTIALS_DIRECTORY names (/run/secrets in a container), or a
variable, which users of the Docker Engine on the host can read, too."""
MetricName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=200),
    Field(examples=["vllm:num_requests_running"]),
]
GpuId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:._-]+$", max_length=80)]
ContainerPort = Annotated[int, Field(ge=1, le=65535)]
NamedType = Annotated[EngineType, WrapValidator(collect_bad_id), Field(examples=["vllm"])]


InferenceApi = Literal[
    "chat", "completions", "responses", "messages", "embeddings", "rerank", "speech", "transcriptions", "translations"
]
"""A kind of request in the shapes of OpenAI's API; `messages` in Anthropic's, `rerank` in Cohere's and Jina's."""
_TEXT: tuple[InferenceApi, ...] = ("chat", "completions", "responses", "messages")
_APIS_OF_TYPE: Mapping[str, tuple[InferenceApi, ...]] = {
    "llm": _TEXT,
    "vision": _TEXT,
    "embedding": ("embeddings",),
    "rerank": ("rerank",),
    "asr": ("transcriptions", "translations"),
    "tts": ("speech",),
    "image": (),
}
"""What a model can do, whatever else its engine serves with others; every API for a type without an entry."""

UNRESOLVED = "unresolved"
"""In place of a digest or a size that was not looked up at its origin."""


def digest_in(image: str) -> str:
    """The digest that an image reference names."""
    return image.partition("@")[2] or UNRESOLVED


def repository_of(image: str) -> str:
    """The same for every spelling: `docker.io/aima/dial` for `aima/dial:1`."""
    return str(reference.Reference.parse_normalized_named(image)["name"])


def _size_or_unresolved(value: object) -> object:
    return ByteSize(0) if value == UNRESOLVED else value


ModelSize = Annotated[Size, BeforeValidator(_size_or_unresolved), Field(examples=["65.5GB", UNRESOLVED])]
"""Bytes; 0, written `unresolved`, if nobody has looked it up: then the size of the resolved source counts."""


class Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class HealthCheck(Entry):
    path: UrlPath = "/health"
    timeout: Duration
    """The engine fails after this long without a log line while it loads."""
    at_most: Duration | None = None
    """The limit of loading in all while log lines appear; None makes `timeout` count from the start."""

    @model_validator(mode="after")
    def waits_at_least_its_timeout(self) -> Self:
        if not self.timeout:
            raise ValueError("has a `timeout` of nothing; give it time, such as `60s`")
        if self.at_most is not None and self.at_most < self.timeout:
            raise ValueError("has an `at_most` below its `timeout`; raise `at_most`, or leave it away")
        return self


class AnswerCheck(Entry):
    """A request that a healthy engine must answer correctly before it is ready."""

    model: Annotated[Word, Field(min_length=1, max_length=200)] | None = None
    """The model's name in requests and answers; None if the engine is given its names, or answers with none."""


class EmbeddingsCheck(AnswerCheck):
    dimensions: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """The length of a vector; None accepts any."""


class Ready(Entry):
    """Which answers are checked, once the health check succeeds. Of several, only what the model can answer."""

    chat: AnswerCheck | None = None
    """A few tokens."""
    embeddings: EmbeddingsCheck | None = None
    """Finite vectors; like texts are nearer than unlike ones."""
    rerank: AnswerCheck | None = None
    """The fitting document is ranked first."""
    speech: AnswerCheck | None = None
    """A sentence as WAV: not silent, and as long as a sentence."""
    transcriptions: AnswerCheck | None = None
    """A recorded English sentence; its words are recognized."""
    busy: tuple[MetricName, ...] = ()
    """Gauges of running and waiting requests at the engine's /metrics. While all are 0, the check is repeated every few
    minutes; without them, at starts only."""

    @model_validator(mode="after")
    def checks_an_answer(self) -> Self:
        if not (self.chat or self.embeddings or self.rerank or self.speech or self.transcriptions):
            raise ValueError("checks no answer; name one, such as `chat: {}`")
        return self


class Requirements(Entry):
    platforms: tuple[Literal["linux/arm64", "linux/amd64"], ...] = Field(min_length=1)
    accelerator: AcceleratorKind = "cpu"
    """The first half of the route, such as `gb10`; `cpu` needs none."""
    gpus: Annotated[int | Literal["all"], BeforeValidator(_gpus)] | None = None
    gpu_memory: Size | None = None
    cores: Annotated[int, Field(ge=1)] = 1
    memory: Size

    @model_validator(mode="after")
    def gpus_go_with_an_accelerator(self) -> Self:
        if (self.gpus is None) != (self.accelerator == "cpu"):
            raise ValueError("has one of `gpus` and `accelerator` without the other; give both, or neither for the CPU")
        if self.gpus is None and self.gpu_memory is not None:
            raise ValueError("has `gpu_memory` without `gpus`; give both, or neither for the CPU")
        return self


class Limits(Entry):
    """Resource limits of the container; None leaves the limit to the host."""

    memory: Size | None = None
    cores: Annotated[float, Field(gt=0)] | None = None
    shared_memory: Size | None = None
    disk: Size | None = None
    """What it may write into its container's file system, where the host's storage driver has quotas."""
    pids: Annotated[int, Field(ge=16)] = 4096


class Native(Entry):
    """How the engine runs as a native process.

    In the command, `{address}` and `{port}` stand for the endpoint, `{model}` for the model's directory.
    """

    command: tuple[Word, ...] = Field(min_length=1)
    install: Word
    """The command that installs the program, shown as the fix if it is missing."""


class Engine(Entry):
    name: NamedEngine
    type: NamedType
    image: ImageReference
    alternatives: tuple[ImageReference, ...] = ()
    """Tried in order after `image`; an image that is on the host goes before any that must be pulled."""
    pull: PullPolicy = "missing"
    """`never` for an image that is built on the hosts: in a public registry, the name may belong to others."""
    build: Word | None = None
    """The command that builds the image on a host, shown as the fix if it is missing and never pulled."""
    image_size: Size | None = None
    """The approximate disk usage; the free disk is checked against it before a pull."""
    entrypoint: tuple[Word, ...] = ()
    """Replaces the image's entrypoint, as `docker run --entrypoint` does; empty keeps it."""
    command: tuple[Word, ...] = Field(min_length=1)
    """What the entrypoint is given, as after the image in `docker run`."""
    arguments: Arguments = {}
    """Appended as `--name value`; true appends the bare `--name`, false omits it. `--set` changes these only."""
    environment: dict[Variable, Word] = {}
    secrets: dict[SecretName, SecretUse] = {}
    """How it reads the secrets that a service refers to; a secret without an entry here is a file."""
    port: ContainerPort
    """The engine's port inside its container; the host's port is the leased one."""
    model_mount: MountTarget | None = None
    """The read-only mount of the model's directory; None if the image contains the model."""
    filesystem: Literal["read-only", "writable"] = "writable"
    """Whether the engine may write to its container's file system; a `tmpfs` is always writable."""
    tmpfs: dict[TmpfsTarget, TmpfsSize] = {}
    """Directories in memory, by their size, which counts towards the memory limit. A read-only engine has `/tmp` of
    64 MB and `/run` of 16 MB unless they are named here."""
    serves: tuple[InferenceApi, ...] = ()
    """The APIs that it answers: gateways send it no other requests."""
    names: Annotated[Word, AfterValidator(_names)] | None = None
    """Arguments by which it is given the model names that it answers to, appended to `arguments`: `{name}` stands for
    the model's id, `{names}` for that and the service's id. None for an engine that has a name of its own, or ignores
    the name in a request."""
    health_check: HealthCheck
    ready: Ready | None = None
    """What it must answer, beyond its health check, to be ready."""
    requires: Requirements
    limits: Limits = Limits()
    native: Native | None = None

    @model_validator(mode="after")
    def no_tmpfs_covers_the_model(self) -> Self:
        if covering := [path for path in self.tmpfs if f"{self.model_mount}/".startswith(f"{path}/")]:
            raise ValueError(f"has a `tmpfs` at {covering[0]} over its `model_mount`; choose other directories")
        return self

    @model_validator(mode="after")
    def secret_variables_can_be_set(self) -> Self:
        for name in [name for name, use in self.secrets.items() if use == "environment"]:
            variable_name(name)
            if name in self.environment:
                raise ValueError(f"has {name} in `environment` and in `secrets`; take it out of one")
        return self

    @property
    def directories_in_memory(self) -> dict[str, int]:
        """The sizes of the `tmpfs`, defaults of a read-only engine included."""
        return {**(_READ_ONLY_TMPFS if self.filesystem == "read-only" else {}), **self.tmpfs}

    @property
    def images(self) -> tuple[ImageReference, ...]:
        return (self.image, *self.alternatives)


class Model(Entry):
    name: ModelName
    type: Literal["llm", "embedding", "rerank", "asr", "tts", "vision", "image", "test"]
    size: ModelSize
    """The disk usage of the weights; `unresolved` if it was not looked up."""
    engines: tuple[NamedEngine, ...] = Field(min_length=1)
    """Engines known to serve it, best first."""
    path: RelativePath | None = None
    """The weights' directory below one of a host's `model_roots`, where people put them; None if the engine's image
    contains them, or hosts fetch them from `source` only."""
    source: SourceText | None = None
    """Where hosts fetch the weights from: `hf:org/repo@revision`, `modelscope:org/repo@revision`, a URL with the
    SHA-256 of its file, or a directory below a model root of one host, `file:/path@host`. A branch or tag is resolved
    to a commit when the model is pulled."""
    files: Annotated[tuple[FilePattern, ...], Field(max_length=50)] = ()
    """Patterns of the files of the source that are fetched, such as `*.safetensors`; all but hidden ones if empty."""
    contents: Annotated[dict[FilePath, FileContent], Field(max_length=MOST_FILES)] = {}
    """The files of the directory that `source` names, each with its size and SHA-256; `aima model add` writes them."""
    licence: Word | None = None
    """Shown to people; such as `apache-2.0`."""
    token: SecretEntry | None = None
    """The entry of the hosts' secrets with the token of a gated source; only the host that fetches reads it."""
    arguments: Arguments = {}
    """Replace the defaults of the engines that have them, such as `trust-remote-code: true`; `--set` goes before."""

    @model_validator(mode="after")
    def files_go_with_a_source(self) -> Self:
        if self.source is None and (self.files or self.token):
            raise ValueError("has `files` or `token` without a `source`; name the source, or take them out")
        if self.files and self.source and self.source.startswith("https:"):
            raise ValueError("has `files` for the one file of a URL; take them out")
        is_directory = bool(self.source and self.source.startswith("file:"))
        if is_directory and (self.files or self.token):
            raise ValueError("has `files` or `token` for a directory; list its files in `contents`")
        if is_directory != bool(self.contents):
            raise ValueError("needs `contents` for a directory, and for no other source; `aima model add` writes both")
        if is_directory:
            _ = self.manifest
        return self

    @property
    def manifest(self) -> Manifest | None:
        """Of a directory, whose files the entry itself pins; None for any other source. Raises ValueError."""
        return directory_manifest(self.id, self.source, self.contents) if self.source and self.contents else None

    @property
    def id(self) -> ModelId:
        return ModelId(self.name.lower())

    def served_of(self, engine: Engine) -> tuple[InferenceApi, ...]:
        """The APIs of the engine that this model can answer."""
        able = _APIS_OF_TYPE.get(self.type, engine.serves)
        return tuple(api for api in engine.serves if api in able)


class Recommendation(Entry):
    engine: NamedEngine
    model: ModelName


class Profile(Entry):
    """A kind of machine, and a set of services known to run on it together."""

    name: ProfileName
    arch: Arch
    accelerator: AcceleratorKind
    cores: Annotated[int, Field(ge=1)]
    memory: Size
    unified_memory: bool
    """CPU and GPU share `memory`."""
    recommends: tuple[Recommendation, ...]
