"""Images declared for another architecture that run on this one, for hosts that claim that architecture.

Only one word of their configuration differs from the real images.
"""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import closing
from typing import Any

import docker

BYTES = 1 << 20


def look_alike_image(image: str, *, name: str, arch: str = "arm64") -> str:
    """Tags `image` as `name` in the shared engine, declared for `arch`. The caller removes it."""
    archive = archive_of(image, name=name, arch=arch)
    with closing(docker.from_env()) as shared:
        shared.images.load(archive)
    return name


def archive_of(image: str, *, name: str | None = None, arch: str | None = None) -> bytes:
    """An archive of an image of the shared engine; with that name and architecture, if given."""
    with closing(docker.from_env()) as shared:
        saved = b"".join(shared.images.get(image).save(chunk_size=BYTES, named=True))
    if name is None and arch is None:
        return saved
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        return _packed(archive, name or image, arch)


def _packed(saved: tarfile.TarFile, name: str, arch: str | None) -> bytes:
    (manifest,) = json.loads(_content(saved, "manifest.json"))
    config = json.loads(_content(saved, manifest["Config"]))
    reported: dict[str, Any] = {**config, "architecture": arch or config["architecture"]}
    reported.pop("variant", None)
    parts = {
        "config.json": json.dumps(reported).encode(),
        "manifest.json": json.dumps([{**manifest, "Config": "config.json", "RepoTags": [name]}]).encode(),
        **{layer: _content(saved, layer) for layer in manifest["Layers"]},
    }
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as packed:
        for path, content in parts.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def _content(archive: tarfile.TarFile, path: str) -> bytes:
    file = archive.extractfile(path)
    assert file is not None, f"{path} is no file of the image"
    return file.read()
