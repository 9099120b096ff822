"""Credentials of a registry come from Docker's configuration on the host, and from nowhere else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from lab.images import busybox_image
from lab.registry import ACCOUNT, Registry, registry

from aima_core.errors import RegistryDenied
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = [pytest.mark.docker, pytest.mark.registry]

STALL = timedelta(seconds=30)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry", locked=True) as server:
        yield server


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `docker login` writes; it does not exist yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def log_in(docker_config: Path, registry: str, **account: str) -> None:
    secret = base64.b64encode(f"{account['username']}:{account['password']}".encode()).decode()
    docker_config.write_text(json.dumps({"auths": {registry: {"auth": secret}}}))


def test_a_pull_without_credentials_is_denied(
    engine: DockerSdkRuntime, locked: Registry, docker_config: Path, new_name: str
) -> None:
    image = locked.push(busybox_image(), name=new_name)

    with pytest.raises(RegistryDenied):
        list(engine.pull(image, stall=STALL))

    assert engine.image(image) is None


def test_a_login_takes_effect_with_the_next_pull(
    engine: DockerSdkRuntime, locked: Registry, docker_config: Path, new_name: str
) -> None:
    image = locked.push(busybox_image(), name=new_name)
    with pytest.raises(RegistryDenied):
        list(engine.pull(image, stall=STALL))

    log_in(docker_config, locked.address, **ACCOUNT)
    list(engine.pull(image, stall=STALL))

    assert engine.image(image) is not None


def test_a_wrong_password_is_denied(
    engine: DockerSdkRuntime, locked: Registry, docker_config: Path, new_name: str
) -> None:
    image = locked.push(busybox_image(), name=new_name)
    log_in(docker_config, locked.address, username="reader", password="guessed")

    with pytest.raises(RegistryDenied):
        list(engine.pull(image, stall=STALL))


def test_a_missing_credential_helper_is_reported_rather_than_ignored(
    engine: DockerSdkRuntime, docker_config: Path
) -> None:
    docker_config.write_text(json.dumps({"credsStore": "nobody-has-this"}))

    with pytest.raises(RegistryDenied, match="credentials"):
        engine.pull("spark-registry:5000/vllm:1", stall=STALL)
