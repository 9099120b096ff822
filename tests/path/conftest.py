"""A running installation, used through the command line."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from lab.leaks import no_container_of
from lab.running import Aima, engines


@pytest.fixture(scope="module")
def dial_image() -> None:
    engines("build", "dial")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, dial_image: None) -> Iterator[Aima]:
    """`aima up` on the Docker Engine, shared by the tests of a file."""
    installation = f"t{uuid.uuid4().hex[:12]}"
    running = Aima(tmp_path_factory.mktemp("up"), installation=installation, runtime="docker")
    with no_container_of(installation):
        running.up()
        yield running
        running.end()


@pytest.fixture
def aima(up: Aima) -> Iterator[Aima]:
    """Without services before and after the test."""
    yield up
    up.clear()
    assert up.record("port", "list") == []
