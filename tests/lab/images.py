"""Tiny images without a public registry: Debian's static busybox, imported or as a base.

`busybox_image` is built once and stays as a cache of two megabytes; a test removes the other images that it builds.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from hashlib import sha256
from pathlib import Path

import docker
from lab.parts import missing

from aima_worker.node.hardware import arch

BUSYBOX_IMAGE = "aima-lab/busybox:2"
_APPLETS = ("sh", "httpd", "sleep", "seq", "sed", "head", "tail", "tr", "printf", "cat", "echo", "id", "touch", "env")


def references(client: docker.DockerClient) -> list[str]:
    """The tags and digests of all images by one request; `images.list` inspects each one, which may be gone by then."""
    listed = client.api.images(all=True)
    return [reference for each in listed for kind in ("RepoTags", "RepoDigests") for reference in each[kind] or ()]


def engine_client(address: str | None) -> docker.DockerClient:
    """Of the engine at that address; None for the shared one."""
    return docker.DockerClient(address) if address else docker.from_env()


@cache
def busybox_image(address: str | None = None) -> str:
    """The reference of an image with a shell and an HTTP server, whose `/www/health` answers 200.

    On the engine at that address; None for the shared one.
    """
    with closing(engine_client(address)) as client:
        if not client.images.list(BUSYBOX_IMAGE):
            client.images.load(one_layer_archive(BUSYBOX_IMAGE, _busybox_tar().getvalue(), arch=arch()))
    return BUSYBOX_IMAGE


def foreign_image(name: str, *, arch: str) -> str:
    """The same under `name`, declared for another architecture."""
    with closing(docker.from_env()) as client:
        client.images.load(one_layer_archive(name, _busybox_tar().getvalue(), arch=arch))
    return name


def one_layer_archive(name: str, layer: bytes, *, arch: str, user: str = "") -> bytes:
    """An archive for `docker load`: `docker import` cannot declare another architecture."""
    config = {
        "architecture": arch,
        "os": "linux",
        "config": {"User": user},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    parts = [("config.json", json.dumps(config)), ("manifest.json", json.dumps(manifest))]
    return tar_of([*((part, text.encode()) for part, text in parts), ("layer.tar", layer)]).getvalue()


def layered_image(
    name: str,
    *,
    layers: Sequence[int],
    base: str = "scratch",
    content: Callable[[int], bytes] = os.urandom,
    address: str | None = None,
) -> str:
    """An image `name` with layers of these sizes; random ones neither compress nor are shared."""
    files = [(f"layer-{number}", content(size)) for number, size in enumerate(layers)]
    steps = [f"FROM {base}", *(f"COPY {file} /{file}" for file, _ in files)]
    context = tar_of([("Dockerfile", "\n".join(steps).encode()), *files])
    with closing(engine_client(address)) as client:
        client.images.build(fileobj=context, custom_context=True, tag=name, rm=True, forcerm=True)
    return name


def _busybox_tar() -> io.BytesIO:
    program = shutil.which("busybox")
    if program is None:
        missing("there is no busybox; `apt-get install busybox-static` brings one")
    return tar_of(
        [("bin/busybox", Path(program).read_bytes()), ("www/health", b"well\n")],
        links=[(f"bin/{applet}", "busybox") for applet in _APPLETS],
    )


def tar_of(
    files: Sequence[tuple[str, bytes]], *, links: Sequence[tuple[str, str]] = (), writable: Sequence[str] = ()
) -> io.BytesIO:
    """`writable` are directories for every user, such as `tmp`."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for directory in dict.fromkeys(name.rpartition("/")[0] for name, _ in files if "/" in name):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755  # else some storage drivers make it unreadable
            tar.addfile(entry)
        for name in writable:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    whole.seek(0)
    return whole
