"""Weights of models: the source that a catalog entry names, and the manifest that an API node resolves it to.

A manifest is a snapshot: it pins each file by its size and digest. It travels in a signed command: a worker fetches
nothing else, and publishes no file that differs. A path that could lead out of the model's directory is refused by both
API nodes and workers.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Annotated, NamedTuple, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from aima_core.domain.ids import HostName, ModelId, WireModel
from aima_core.domain.units import Duration

MOST_FILES = 500
"""Of one model: its manifest is part of each of its start commands."""
MOST_BYTES = 4 << 40
"""Of one model."""
MOST_PATH_BYTES = 200
_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REVISION = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?"
_HUB = re.compile(rf"(hf|modelscope):({_REPOSITORY})(?:@({_REVISION}))?")
_URL = re.compile(r"(https://[!-\"$-~]{1,1000})#sha256=([0-9a-f]{64})")
_DIRECTORY = re.compile(r"file:(/[!-~]{1,300})@([^@/]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_EXAMPLES = (
    "`hf:Qwen/Qwen3-32B@main`, `modelscope:Qwen/Qwen3-32B`, `https://example.org/model.gguf#sha256=…` or "
    "`file:/srv/models/mine@spark-01`"
)


class Origin(StrEnum):
    """Where the files of a source are downloaded from."""

    HF = "hf"
    """Hugging Face, or a mirror of it."""
    MODELSCOPE = "modelscope"
    HTTPS = "https"
    """One file at one URL."""
    FILE = "file"
    """A directory of one host, from which that host copies them; all others get them from hosts."""


_ENDPOINTS = {Origin.HF: "https://huggingface.co", Origin.MODELSCOPE: "https://www.modelscope.cn"}
_VARIABLES = {Origin.HF: "HF_ENDPOINT", Origin.MODELSCOPE: "MODELSCOPE_ENDPOINT"}
"""Name a mirror of the origin; the first is also read by the tools of Hugging Face."""
_DEFAULT_REVISIONS = {Origin.HF: "main", Origin.MODELSCOPE: "master"}


class Source(NamedTuple):
    origin: Origin
    where: str
    """The repository, the URL, or the absolute path of the directory."""
    revision: str
    """A commit, a branch or a tag; the SHA-256 of the file at a URL; the host of a directory."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with examples."""
        if hub := _HUB.fullmatch(text):
            origin = Origin(hub[1])
            if ".." in (hub[3] or ""):
                raise ValueError(f"{text!r} names no revision; write a branch, a tag or a commit, such as `main`")
            return cls(origin, hub[2], hub[3] or _DEFAULT_REVISIONS[origin])
        if url := _URL.fullmatch(text):
            if urlsplit(url[1]).username is not None:
                raise ValueError(f"{text!r} holds a password; name a secret of the host as `token` instead")
            safe_path(_last_part(url[1]))
            return cls(Origin.HTTPS, url[1], url[2])
        if directory := _DIRECTORY.fullmatch(text):
            safe_path(directory[1].removeprefix("/"))
            if not HostName.pattern.fullmatch(directory[2]):
                raise ValueError(
                    f"{text!r} names no host after the `@`; write it such as `file:/srv/models/mine@spark-01`"
                )
            return cls(Origin.FILE, directory[1], HostName(directory[2]))
        raise ValueError(f"{text!r} is not a source; write it such as {_EXAMPLES}")

    @property
    def host(self) -> HostName | None:
        """The one whose directory it is; None for an origin that all hosts may reach."""
        return HostName(self.revision) if self.origin is Origin.FILE else None

    @property
    def is_pinned(self) -> bool:
        """Whether it always names the same files; those of a directory are pinned beside it in the catalog."""
        return self.origin in (Origin.HTTPS, Origin.FILE) or _COMMIT.fullmatch(self.revision) is not None

    @property
    def endpoint(self) -> str:
        """The address of the origin, or of its mirror that this process' environment names; empty without any."""
        if self.origin not in _ENDPOINTS:
            return ""
        return (os.environ.get(_VARIABLES[self.origin]) or _ENDPOINTS[self.origin]).rstrip("/")

    @property
    def mirror(self) -> str | None:
        """As this process' environment names it; None without one."""
        return self.endpoint if os.environ.get(_VARIABLES.get(self.origin, "")) else None


def safe_path(text: str) -> str:
    """The relative path of a file below its model's directory. Raises ValueError."""
    parts = text.split("/")
    if not text.isprintable() or "\\" in text or len(text.encode()) > MOST_PATH_BYTES:
        raise ValueError(f"{text[:80]!r} is no usable path of a file: it is too long, or has control characters")
    if {"", ".", ".."} & set(parts):
        raise ValueError(f"{text[:80]!r} is no usable path of a file: it is absolute, or has empty or dotted parts")
    return text


def _source(text: str) -> str:
    Source.parse(text)
    return text


SourceText = Annotated[
    str, StringConstraints(max_length=1200), AfterValidator(_source), Field(examples=["hf:Qwen/Qwen3-32B@main"])
]
FilePattern = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$"), Field(examples=["*.safetensors"])]
FilePath = Annotated[str, AfterValidator(safe_path)]


class ManifestFile(WireModel):
    """One of the two digests pins it."""

    path: FilePath
    size: Annotated[int, Field(ge=0, le=MOST_BYTES)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    git: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The id of the Git blob, for a small file of a gated repository that an API node cannot read without a token."""

    @model_validator(mode="after")
    def is_pinned(self) -> Self:
        if (self.sha256 is None) == (self.git is None):
            raise ValueError(f"has one digest, and not two or none: {self.path}")
        return self

    @property
    def digest(self) -> str:
        return self.sha256 or f"git-{self.git}"


class FileContent(WireModel):
    """What pins one file of a directory in the catalog."""

    size: Annotated[int, Field(ge=0, le=MOST_BYTES)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Manifest(WireModel):
    """The files of a model at one revision, by path."""

    model: ModelId
    source: SourceText
    """As the catalog names it."""
    patterns: tuple[str, ...] = ()
    """Which chose the files of the source."""
    revision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
    """Resolved: a commit, or the SHA-256 of the file at a URL, or of the list of a directory's files."""
    endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://[!-~]{1,300})?$")] = ""
    """The address of the origin as the API node reached it; a host's own mirror goes before it."""
    files: Annotated[tuple[ManifestFile, ...], Field(min_length=1, max_length=MOST_FILES)]

    @model_validator(mode="after")
    def files_can_exist_together(self) -> Self:
        paths = {each.path for each in self.files}
        if len(paths) < len(self.files):
            raise ValueError("names a file twice")
        parents = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
        if paths & parents:
            raise ValueError(f"has {min(paths & parents)} as a file and as a directory")
        if self.size > MOST_BYTES:
            raise ValueError(f"has more than {MOST_BYTES} bytes")
        return self

    @property
    def size(self) -> int:
        return sum(each.size for each in self.files)

    @property
    def by_path(self) -> list[ManifestFile]:
        """In the order that all hosts number them in."""
        return sorted(self.files, key=lambda file: file.path)

    @property
    def digest(self) -> str:
        """Equal for two manifests of the same content, wherever it is downloaded from."""
        return _digest_of(self.files)

    @property
    def name(self) -> str:
        """Of its directory below the model's: the beginnings of the revision and of the digest."""
        return f"{self.revision[:12]}-{self.digest[:12]}"

    def is_of(self, source: str, patterns: tuple[str, ...]) -> bool:
        return (self.source, self.patterns) == (source, patterns)

    def url_of(self, file: ManifestFile) -> str:
        """By the mirror that this process' environment names, else as the API node reached the origin."""
        source = Source.parse(self.source)
        if source.origin is Origin.HTTPS:
            return source.where
        if source.origin is Origin.FILE:
            return f"file://{source.host}{quote(source.where)}/{quote(file.path)}"
        path, endpoint = quote(file.path), source.mirror or self.endpoint or source.endpoint
        models = "models/" if source.origin is Origin.MODELSCOPE else ""
        return f"{endpoint}/{models}{source.where}/resolve/{self.revision}/{path}"


def chosen(path: str, patterns: tuple[str, ...]) -> bool:
    """By any of the patterns, in which `*` also stands for slashes; without patterns, all but hidden files."""
    if patterns:
        return any(fnmatchcase(path, pattern) for pattern in patterns)
    return not any(part.startswith(".") and part.strip(".") for part in path.split("/"))  # `..` is refused later


def url_manifest(model: ModelId, text: str, size: int) -> Manifest:
    """Of the one file at a URL."""
    source = Source.parse(text)
    file = ManifestFile(path=_last_part(source.where), size=size, sha256=source.revision)
    return Manifest(model=model, source=text, revision=source.revision, files=(file,))


def directory_manifest(model: ModelId, text: str, contents: Mapping[str, FileContent]) -> Manifest:
    """Of a directory's files. Raises ValueError."""
    files = tuple(ManifestFile(path=path, size=it.size, sha256=it.sha256) for path, it in sorted(contents.items()))
    return Manifest(model=model, source=text, revision=_digest_of(files), files=files)


def _digest_of(files: Iterable[ManifestFile]) -> str:
    content = sorted([each.path, each.size, each.digest] for each in files)
    return sha256(json.dumps(content).encode()).hexdigest()


def _last_part(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


class FetchProgress(WireModel):
    """The progress of a model's fetch, in bytes."""

    model: ModelId
    received: int
    """Bytes on the host's disk, those of an earlier attempt included."""
    verified: int
    """Bytes of files whose digest was compared with the manifest's."""
    total: int
    files_done: int
    files: int
    rate: float | None = None
    """Bytes received per second over the last seconds; None while nothing arrives."""
    eta: Duration | None = None
    waits_for: str | None = None
    """Why nothing arrives; None while bytes do."""
    from_hosts: int = 0
    """Bytes that other hosts of the site have sent."""
    notice: str | None = None
    """What went wrong last, and did not end the fetch."""


class Weights(WireModel):
    """The files of a model that an engine reads from its host, which fetches those that it lacks."""

    model: ModelId
    name: str | None
    """Of their directory in a store; None while their source is not resolved: then any revision is the right one."""
    size: int
    """Bytes; 0 if that is unresolved."""
    path: str | None = None
    """Where people put them, below a model root."""


class ModelDisk(WireModel):
    """The file system of a host's model store, in bytes."""

    total: int
    free: int
    reserve: int
    """Which fetches leave free."""
    awaited: int = 0
    """Which running fetches have still to write."""

    @property
    def usable(self) -> int:
        """For one more fetch."""
        return self.free - self.reserve - self.awaited


class ModelOnHost(WireModel):
    """One revision of a model in a host's store."""

    model: ModelId
    revision: str
    name: str
    """Of its directory."""
    size: int
    """Bytes of all its files."""
    received: int
    """Bytes that are there; fewer than `size` while it is fetched, or after that was interrupted."""
    published: bool
    """Engines may read it: every file had the digest of the manifest."""
    verified: bool
    """It is published, and no file has changed since."""
    used_at: AwareDatetime | None = None
    """When an engine last had it mounted, within minutes; None if none has."""
    pinned: bool = False
    """It is neither collected nor removed."""
    fetching: bool = False
    """A fetch of it runs now."""


class CollectionEntry(WireModel):
    """What a collection of unused models does with one revision in a host's store, or would do."""

    model: ModelId
    revision: str
    name: str
    """Of its directory."""
    size: int
    """Bytes of all its files."""
    used_at: AwareDatetime | None = None
    """When an engine last had it mounted; None if none has."""
    freed: int | None = None
    """Bytes that its removal frees, without files that other revisions share; None if it is kept."""
    kept: str | None = None
    """Why it is kept; None if it is removed."""
