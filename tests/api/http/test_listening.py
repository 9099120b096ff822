"""The first line of an API node: where it listens, its catalog, and whether Redis answers; never a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.api_process import ApiProcess
from lab.parts import eventually, free_port


def first_line(node: ApiProcess, log: Path) -> str:
    node.begin()
    try:
        assert eventually(lambda: "Listening" in log.read_text()), log.read_text()
    finally:
        node.kill()
    return next(line for line in log.read_text().splitlines() if line.startswith("Listening"))


def test_a_node_that_waits_for_redis_reports_its_address_without_the_password(tmp_path: Path) -> None:
    port = free_port()
    node = ApiProcess(f"redis://user:secret@127.0.0.1:{port}/2?password=secret", tmp_path)

    said = first_line(node, tmp_path / "api.log")

    assert said.startswith(f"Listening on {node.url}; catalog: ")
    assert said.endswith(f"Redis: redis://127.0.0.1:{port}/2 (waiting)")


@pytest.mark.redis
def test_a_node_whose_redis_answers_is_connected(redis_url: str, tmp_path: Path) -> None:
    assert first_line(ApiProcess(redis_url, tmp_path), tmp_path / "api.log").endswith("(connected)")
