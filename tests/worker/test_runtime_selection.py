"""Runtime selection with `runtime = "auto"`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aima_core.settings import DockerSettings, Settings
from aima_worker.runtime_selection import choose_runtime
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime
from aima_worker.runtimes.process.runtime import ProcessRuntime

NOWHERE = "unix:///nowhere/docker.sock"

DockerProgram = Callable[[str], None]


@pytest.fixture
def only_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DockerProgram:
    """Puts a `docker` program alone on the PATH, which runs the given script."""

    def answers(script: str) -> None:
        program = tmp_path / "docker"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return answers


def settings(tmp_path: Path, **changes: object) -> Settings:
    fields = {"state_dir": tmp_path, "docker": DockerSettings(host=NOWHERE)}
    return Settings.model_validate(fields | changes)


@pytest.mark.docker
def test_a_docker_engine_that_answers_the_sdk_is_used(tmp_path: Path) -> None:
    choice = choose_runtime(settings(tmp_path, docker=DockerSettings()))

    assert isinstance(choice.runtime, DockerSdkRuntime)
    assert not choice.native


@pytest.mark.docker
def test_a_docker_engine_that_only_the_docker_program_reaches_is_used(
    tmp_path: Path, only_program: DockerProgram
) -> None:
    only_program(f"exec {shutil.which('docker')} --host unix:///var/run/docker.sock system dial-stdio")

    choice = choose_runtime(settings(tmp_path))

    assert choice.runtime.facts().kind == "docker-cli"
    assert not choice.native


def test_without_a_reachable_docker_engine_native_processes_are_used(
    tmp_path: Path, only_program: DockerProgram
) -> None:
    only_program("echo 'Cannot connect to the Docker daemon. Is the docker daemon running?' >&2; exit 1")

    choice = choose_runtime(settings(tmp_path))

    assert isinstance(choice.runtime, ProcessRuntime)
    assert choice.native


@pytest.mark.docker
def test_the_docker_program_can_be_selected_by_name(tmp_path: Path) -> None:
    choice = choose_runtime(settings(tmp_path, runtime="docker-cli", docker=DockerSettings()))

    assert choice.runtime.facts().kind == "docker-cli"
