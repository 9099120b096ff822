"""The documented path of a start, where it leaves the worker's steps for the Docker SDK."""

from __future__ import annotations

import pytest
from house.recorded_start import ROOT, documented_calls, into_a_runtime, record_container_start

pytestmark = [pytest.mark.docker, pytest.mark.redis]


def test_the_path_of_a_start_ends_at_the_docker_sdk(redis, tmp_path):
    calls = record_container_start(redis, tmp_path)

    path = documented_calls()
    assert [call for call in path if into_a_runtime(call) and call not in calls.pairs] == []
    assert "create_container" in (ROOT / path[-1][1]).read_text()
