"""A model of three files at a scripted origin, and a desk whose host fetches it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from lab.model_origin import COMMIT, ModelOrigin, model_origin
from lab.random_files import Random, RandomFiles

from aima_core.domain.ids import ModelId
from aima_core.domain.models import FileContent, Manifest, ManifestFile, directory_manifest
from aima_core.settings import HostSettings, Settings
from aima_worker.models import sharing

REPOSITORY = "maker/small"
MIB = 1 << 20
WEIGHTS, TOKENIZER, CONFIG = "weights-1.safetensors", "sub/tokenizer.json", "config.json"


FILES = RandomFiles(
    {
        CONFIG: b'{"layers": 2}',
        TOKENIZER: Random(3 * MIB, 1),
        WEIGHTS: Random(37 * MIB, 2),
        "empty.txt": b"",
    }
)
SIZE = FILES.size


@pytest.fixture
def origin() -> Iterator[ModelOrigin]:
    with model_origin() as origin:
        origin.publish(REPOSITORY, FILES)
        yield origin


@pytest.fixture
def stall() -> timedelta:
    """The stall timeout; longer than any test holds an origin back, and overridden where a stall is tested."""
    return timedelta(minutes=1)


@pytest.fixture
def settings(settings: Settings, stall: timedelta) -> Settings:
    """With that stall timeout, and no reserve of disk."""
    host = {**dict(settings.host), "model_stall": stall, "disk_reserve": "1kB"}
    return settings.model_copy(update={"host": HostSettings.model_validate(host)})


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one second instead of five, a host counts as unreachable, and one that learns of no other as alone."""
    monkeypatch.setattr(sharing, "UNREACHABLE_AFTER", timedelta(seconds=1))
    monkeypatch.setattr(sharing, "ALONE_AFTER", timedelta(seconds=1))


def in_directory(root: Path, name: str, files: Mapping[str, bytes], *, host: str = "alpha") -> Manifest:
    """Of a model whose files it writes below a model root of one host."""
    for path, content in files.items():
        (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / name / path).write_bytes(content)
    contents = {path: FileContent(size=len(it), sha256=hashlib.sha256(it).hexdigest()) for path, it in files.items()}
    return directory_manifest(ModelId("small"), f"file:{root / name}@{host}", contents)


def manifest_of(origin: ModelOrigin, files: Mapping[str, bytes] = FILES, *, revision: str = COMMIT) -> Manifest:
    listed = tuple(
        ManifestFile(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    )
    source = f"hf:{REPOSITORY}@main"
    return Manifest(model=ModelId("small"), source=source, revision=revision, endpoint=origin.url, files=listed)
