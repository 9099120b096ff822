"""A pull with progress events against `docker pull` of the same image from a registry on this machine.

Ours begins with the POST and ends when a follower of the operation receives `pulled`. The image is removed from the
host before each turn; that, and the flush of dirty pages of the previous turn, is not counted.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
from docker.errors import ImageNotFound
from lab.images import layered_image
from lab.registry import registry

from bench.comparison import Comparison, RatioAtMost, size, take_turns
from bench.installation import HOST, Installation, installation

ROUNDS = 7
NEEDS = ("docker", "registry", "redis")
LAYERS = (size(48 << 20),) * 4
"""Bytes."""


def measure(rounds: int) -> list[Comparison]:
    with (
        TemporaryDirectory(prefix="aima-bench-") as directory,
        registry(Path(directory)) as shelf,
        installation() as aima,
    ):
        image = shelf.push(layered_image(f"{aima.name}/layers:1", layers=LAYERS), name="bench/layers:1")
        try:
            seconds = take_turns(
                rounds, {"aima": lambda: _pull(aima, image), "docker pull": lambda: _docker_pull(image)}
            )
        finally:
            _take_away(image)
    return [Comparison("pull, against docker pull", seconds["aima"], seconds["docker pull"], RatioAtMost(1.02))]


def _pull(aima: Installation, image: str) -> float:
    _take_away(image)
    took = aima.seconds_until("pulled", "/v1/images:pull", {"image": image, "hosts": [HOST]})
    aima.wait_for_end()
    return took


def _docker_pull(image: str) -> float:
    _take_away(image)
    began = time.perf_counter()
    subprocess.run(["docker", "pull", image], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _take_away(image: str) -> None:
    with closing(docker.from_env()) as engine, suppress(ImageNotFound):
        engine.images.remove(image)
    os.sync()
