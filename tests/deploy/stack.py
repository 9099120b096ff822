"""`docker-compose.dev.yml` as a user runs it, with a unique project name, installation and ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
from deploy.stand_in import stand_in
from docker.errors import APIError, ImageNotFound
from lab.parts import eventually, free_port, missing
from lab.running import AIMA, ROOT

FILE = ROOT / "docker-compose.dev.yml"
IMAGES = {"AIMA_API_IMAGE": "aima-lab/api:1", "AIMA_WORKER_IMAGE": "aima-lab/worker:1"}
"""They stay as a cache; replaced images are removed."""
HEALTHY_WITHIN = timedelta(seconds=180)
BUILT_WITHIN = 300
_BUILDS_ON_THE_HOST_S_NETWORK = """\
version: "3.8"
services:
  api: {build: {network: host}}
  worker: {build: {network: host}}
"""


class Stack:
    def __init__(self, directory: Path) -> None:
        self.project = f"aima-test-{uuid.uuid4().hex[:8]}"
        self.installation = f"t{uuid.uuid4().hex[:12]}"
        self.flower_port = free_port()
        self.password = uuid.uuid4().hex
        self._addition = directory / "addition.yml"
        self._addition.write_text(_BUILDS_ON_THE_HOST_S_NETWORK)
        url = f"http://127.0.0.1:{free_port()}"
        models = directory / "models"
        models.mkdir()
        self.environment = {
            **os.environ,
            **IMAGES,
            "DOCKER_BUILDKIT": "0",  # BuildKit's client is a separate package
            "AIMA_BASE_IMAGE": stand_in(),
            "AIMA_REDIS_IMAGE": stand_in(),
            "AIMA_REDIS_PORT": str(free_port()),
            "AIMA_REDIS_PASSWORD": self.password,
            "AIMA_INSTALLATION": self.installation,
            "AIMA_SIGNING_KEY": uuid.uuid4().hex,
            "AIMA_API__PORT": url.rpartition(":")[2],
            "AIMA_HOST__NAME": "composed",
            "AIMA_HOST__PORTS": "19200-19299",
            "AIMA_FLOWER__PORT": str(self.flower_port),
            "AIMA_FLOWER__PASSWORD": self.password,
            "AIMA_MODELS": str(models),
            "AIMA_URL": url,
        }

    def build(self) -> None:
        with closing(docker.from_env()) as client:
            before = {image.id for name in IMAGES.values() for image in client.images.list(name)}
            self.compose("build", within=BUILT_WITHIN)
            after = {image.id for name in IMAGES.values() for image in client.images.list(name)}
            for replaced in before - after:
                with suppress(APIError, ImageNotFound):  # a container of another run may still need it
                    client.images.remove(replaced)

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build")
        assert eventually(self._is_healthy, within=HEALTHY_WITHIN), self.compose("logs", "--no-color", "--tail", "20")

    def health(self) -> dict[str, str]:
        """The log of each service."""
        return {
            each.labels["com.docker.compose.service"]: each.attrs["State"]["Health"]["Status"]
            for each in self.containers()
        }

    def containers(self) -> list[Any]:
        with closing(docker.from_env()) as client:
            return list(client.containers.list(all=True, filters={"label": self._label()}))

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans")

    def leftovers(self) -> list[str]:
        with closing(docker.from_env()) as client:
            engines = client.containers.list(all=True, filters={"label": f"aima.installation={self.installation}"})
            named = [*self.containers(), *engines, *client.networks.list(filters={"label": self._label()})]
            return [each.name for each in (*named, *client.volumes.list(filters={"label": self._label()}))]

    def compose(self, *words: str, within: float = 120) -> str:
        files = ["--file", str(FILE), "--file", str(self._addition), "--project-directory", str(ROOT)]
        command = [compose_program(), "--project-name", self.project, *files, *words]
        done = subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=within
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    def aima(self, *words: str) -> Any:
        """The output of a command with `-o json`."""
        command = [AIMA, *words, "-o", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _is_healthy(self) -> bool:
        health = self.health()
        return len(health) == 4 and set(health.values()) == {"healthy"}

    def _label(self) -> str:
        return f"com.docker.compose.project={self.project}"


def compose_program() -> str:
    program = shutil.which("docker-compose")
    if program is None:
        missing("there is no docker-compose; `apt-get install docker-compose`, or `tests/check` does it")
    return program
