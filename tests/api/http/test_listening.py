"""The first line of an API node: where it listens, its catalog, and whether Redis answers; never a password."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from lab.api_process import UP_WITHIN, ApiProcess
from lab.parts import eventually, free_port

from aima_core.errors import ApiPortTaken, BadSettings
from aima_core.system.loopback import find_port


def first_line(node: ApiProcess, log: Path) -> str:
    node.begin()
    try:
        assert eventually(lambda: "Listening" in log.read_text(), within=UP_WITHIN), log.read_text()
    finally:
        node.kill()
    return next(line for line in log.read_text().splitlines() if line.startswith("Listening"))


def test_a_node_that_waits_for_redis_reports_its_address_without_the_password(tmp_path: Path) -> None:
    port = free_port()
    node = ApiProcess(f"redis://user:secret@127.0.0.1:{port}/2?password=secret", tmp_path)

    said = first_line(node, tmp_path / "api.log")

    assert said.startswith(f"Listening on {node.url}; catalog: ")
    assert said.endswith(f"Redis: redis://127.0.0.1:{port}/2 (waiting)")


def test_a_port_in_use_ends_the_node_with_the_port_and_the_command_that_shows_its_owner(tmp_path: Path) -> None:
    node = ApiProcess("redis://127.0.0.1:1/0", tmp_path)
    with socket.create_server(("127.0.0.1", int(node.url.rpartition(":")[2]))):
        node.begin()

        assert node.exit_code() == ApiPortTaken.exit_code
    assert "ss -ltnp" in (tmp_path / "api.log").read_text()


def test_an_address_of_another_machine_is_a_settings_error() -> None:
    with pytest.raises(BadSettings, match="cannot listen on port 0 of 192\\.0\\.2\\.1"):
        find_port("192.0.2.1", 0)


@pytest.mark.redis
def test_a_node_whose_redis_answers_is_connected(redis_url: str, tmp_path: Path) -> None:
    assert first_line(ApiProcess(redis_url, tmp_path), tmp_path / "api.log").endswith("(connected)")
