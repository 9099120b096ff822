"""A scripted API, and the command line run against it in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api.cli.outcome import Aima, Outcome
from api.cli.stand_in import StandIn, stand_in_api

from aima_api.cli.main import run
from aima_api.client import Api


@pytest.fixture
def script() -> Iterator[StandIn]:
    with stand_in_api() as api:
        yield api


@pytest.fixture
def api(script: StandIn) -> Iterator[Api]:
    with Api(script.url) as client:
        yield client


@pytest.fixture
def aima(script: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Aima:
    """Runs a command line against the scripted API."""
    monkeypatch.setenv("AIMA_URL", script.url)

    def aima(*words: str) -> Outcome:
        code = run(words)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return aima
