"""`docker-compose.dev.yml` end to end: built, healthy, used, and removed without a trace."""

from __future__ import annotations

import fcntl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from deploy.stack import FILE, IMAGES, Stack, compose_program
from lab.running import engines

SERVICE = "svc-tiny-dial"
PROGRAMS = {
    IMAGES["AIMA_API_IMAGE"]: "import aima_api.app, aima_api.flower; aima_api.app.LiveCatalog()",
    IMAGES["AIMA_WORKER_IMAGE"]: "import aima_worker.app, aima_worker.runtimes.docker.sdk.runtime",
}
"""The modules that each image must be able to import."""

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Stack:
    """Images and a stopped stack. One of two test processes builds, the other uses the cache."""
    with (pytestconfig.cache.mkdir("compose") / "build.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        stack = Stack(tmp_path_factory.mktemp("compose"))
        stack.build()
    return stack


@pytest.fixture
def stack(built: Stack) -> Iterator[Stack]:
    yield built
    built.down()


def test_the_whole_stack_starts_serves_an_engine_and_leaves_nothing(stack: Stack) -> None:
    engines("build", "dial")
    stack.up()

    (host,) = stack.aima("host", "list")
    stack.aima("service", "start", SERVICE, "--wait")
    (instance,) = stack.aima("service", "status", SERVICE)["instances"]

    assert (host["name"], host["live"]) == ("composed", True)
    assert answer(f"{instance['endpoint']}/health") == 200
    assert flower_answers(stack) == {None: 401, f"aima:{stack.password}": 200}

    stack.aima("service", "stop", SERVICE, "--wait")
    stack.compose("stop")
    ended = {each.labels["com.docker.compose.service"]: each.attrs["State"]["ExitCode"] for each in stack.containers()}
    stack.down()

    assert set(ended) == {"redis", "api", "worker", "flower"}
    assert set(ended.values()) <= {0, 143}, "137 would be a part that did not heed its signal"
    assert stack.leftovers() == []


@pytest.mark.parametrize("image", IMAGES.values())
def test_an_image_is_complete_without_a_network_or_the_source(image: str, built: Stack) -> None:
    sealed = ["docker", "run", "--rm", "--network", "none", "--read-only", image]

    version = subprocess.run([*sealed, "aima", "--version"], capture_output=True, text=True, check=True)
    imported = subprocess.run([*sealed, "python", "-c", PROGRAMS[image]], capture_output=True, text=True)

    assert version.stdout.startswith("aima ")
    assert imported.returncode == 0, imported.stderr


def test_the_api_does_not_run_as_root(built: Stack) -> None:
    asked = ["docker", "run", "--rm", "--network", "none", IMAGES["AIMA_API_IMAGE"], "id", "-u"]

    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == "10001"


@pytest.mark.parametrize("program", [["docker-compose"], ["docker", "compose"]], ids=" ".join)
def test_both_versions_of_compose_accept_the_file(program: list[str], tmp_path: Path) -> None:
    if program == ["docker-compose"]:
        compose_program()
    elif subprocess.run([*program, "version"], capture_output=True).returncode:
        pytest.skip("this Docker has no compose plugin, and Debian has no package of it")

    said = subprocess.run([*program, "--file", str(FILE), "config", "--quiet"], capture_output=True, text=True)

    assert said.returncode == 0, said.stderr


def flower_answers(stack: Stack) -> dict[str | None, int]:
    """By caller."""
    url = f"http://127.0.0.1:{stack.flower_port}/api/workers"
    return {user: answer(url, user=user) for user in (None, f"aima:{stack.password}")}


def answer(url: str, *, user: str | None = None) -> int:
    headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"} if user else {}
    try:
        with urlopen(Request(url, headers=headers), timeout=10) as answered:
            return int(answered.status)
    except HTTPError as refused:
        return refused.code
