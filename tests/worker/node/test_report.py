"""The machine report of `python -m aima_worker --facts`: complete, and read-only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from lab.forked import launch


def looked(**settings: object) -> dict[str, Any]:
    environment = os.environ | {f"AIMA_{name}": str(value) for name, value in settings.items()}
    with TemporaryFile("w+") as said:
        assert launch("aima_worker", "--facts", env=environment, stdout=said).wait(60) == 0
        said.seek(0)
        reported: dict[str, Any] = json.load(said)
    return reported


def test_a_report_leaves_nothing_behind(tmp_path: Path) -> None:
    reported = looked(STATE_DIR=tmp_path / "state", DOCKER__HOST=f"unix://{tmp_path}/none.sock")

    assert reported["hardware"]["memory"] > 0
    assert reported["gives_gpus"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_report_contains_the_configured_facts() -> None:
    reported = looked(HOST__FACTS__ACCELERATORS='[{"kind": "gb10", "name": "NVIDIA GB10"}]')

    assert [each["kind"] for each in reported["hardware"]["accelerators"]] == ["gb10"]
    assert reported["hardware"]["unified_memory"]


@pytest.mark.docker
def test_a_report_says_whether_docker_provides_gpus() -> None:
    assert looked()["gives_gpus"] in (True, False)


@pytest.mark.redis
def test_a_report_measures_the_clock_against_the_redis_that_answers(redis_url: str) -> None:
    assert abs(looked(REDIS__URL=redis_url)["clock_offset"]) < 1
    assert looked(REDIS__URL="redis://127.0.0.1:1")["clock_offset"] is None
