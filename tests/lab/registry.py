"""A private image registry on a free loopback port."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import docker
from lab.parts import eventually, free_port

STARTS_WITHIN = timedelta(seconds=60)
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {directory}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


_LOCKED = """\
auth: {{htpasswd: {{realm: lab, path: {passwords}}}}}
"""
ACCOUNT = {"username": "reader", "password": "secret"}
_PASSWORDS = "reader:$2b$05$.qVMITK44C5CQfZo4a5c1ujwWuKUasoc5q3NvW3rL0xX7XtXttzaS\n"


class Registry:
    def __init__(self, port: int, directory: Path, *, account: dict[str, str] | None = None) -> None:
        self.port = port
        self.directory = directory
        self.account = account

    @property
    def address(self) -> str:
        """Its address, which Docker Engine accepts without TLS."""
        return f"localhost:{self.port}"

    def push(self, image: str, *, name: str) -> str:
        """Pushes a local image as `name` and removes it from the host; returns its reference."""
        reference = f"{self.address}/{name}"
        with closing(docker.from_env()) as client:
            client.images.get(image).tag(reference)
            said = client.images.push(reference, auth_config=self.account)
            client.images.remove(reference)
            if image != reference and "aima-lab/" not in image:
                client.images.remove(image)
        if '"error"' in said:
            raise RuntimeError(said)
        return reference

    def manifest(self, name: str) -> dict[str, Any]:
        repository, _, tag = name.rpartition(":")
        asked = Request(f"http://127.0.0.1:{self.port}/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST})
        with urlopen(asked) as answer:
            reported: dict[str, Any] = json.load(answer)
            return reported

    def layer_sizes(self, name: str) -> list[int]:
        return [layer["size"] for layer in self.manifest(name)["layers"]]

    def spoil_largest_layer(self, name: str) -> None:
        """Changes a byte of the layer on the registry's disk, so that it does not match its digest."""
        largest = max(self.manifest(name)["layers"], key=lambda layer: layer["size"])
        blob = largest["digest"].removeprefix("sha256:")
        data = self.directory / "docker/registry/v2/blobs/sha256" / blob[:2] / blob / "data"
        with data.open("r+b") as file:
            file.seek(largest["size"] // 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0xFF]))


@contextmanager
def registry(directory: Path, *, locked: bool = False) -> Iterator[Registry]:
    """A registry with its data below `directory`; a locked one accepts ACCOUNT only."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = directory / "config.yml"
    passwords = directory / "passwords"
    passwords.write_text(_PASSWORDS)
    lock = _LOCKED.format(passwords=passwords) if locked else ""
    config.write_text(_CONFIG.format(directory=directory / "data", port=port) + lock)
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        assert eventually(lambda: _answers(port), within=STARTS_WITHIN), (directory / "log").read_text()
        yield Registry(port, directory / "data", account=ACCOUNT if locked else None)
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/v2/") as answer:
            return bool(answer.status == 200)
    except HTTPError as answered:
        return answered.code == 401
    except (URLError, ConnectionError):
        return False
