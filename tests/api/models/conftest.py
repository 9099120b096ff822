"""An API node whose catalog names a model at a scripted origin."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from api.node import Node, api_node
from lab.model_origin import ModelOrigin, model_origin

REPOSITORY = "maker/polly"
FILES = {
    "config.json": b'{"voice": "grey"}',
    "model.safetensors": random.Random(1).randbytes(300_000),
    "model.bin": random.Random(2).randbytes(200_000),
    ".gitattributes": b"*.bin filter=lfs\n",
}
ENGINE = """\
name: parrot-cpu
type: parrot
image: example.org/parrot:1.0
command: [parrot]
port: 8000
model_mount: /models
health_check: {timeout: 30s}
requires: {platforms: [linux/arm64, linux/amd64], memory: 10MB}
"""
MODEL = """\
name: Polly
type: tts
size: 1MB
engines: [parrot-cpu]
"""


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelOrigin]:
    with model_origin() as origin:
        monkeypatch.setenv("HF_ENDPOINT", origin.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", origin.url)
        origin.publish(REPOSITORY, FILES)
        yield origin


class Overlay:
    """The catalog of the node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "engines/parrot").mkdir(parents=True)
        (root / "models/tts").mkdir(parents=True)
        (root / "engines/parrot/parrot-cpu.yaml").write_text(ENGINE)

    def names(self, source: str | None, *, more: str = "") -> None:
        line = f"source: {source}\n" if source else ""
        (self.root / "models/tts/Polly.yaml").write_text(f"{MODEL}{line}{more}")


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    overlay = Overlay(tmp_path / "catalog")
    overlay.names(f"hf:{REPOSITORY}")
    return overlay


@pytest.fixture
def node(redis_url: str, overlay: Overlay) -> Iterator[Node]:
    with api_node(redis_url, catalog=overlay.root) as node:
        yield node
