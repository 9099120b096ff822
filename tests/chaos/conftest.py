"""The two stages of chaos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.fleet_stage import FEW, SHARES, FleetStage, fleet_stage, sure_redis
from chaos.lab_stage import IMAGE, LabStage, lab_stage
from engines.conftest import build_image


@pytest.fixture
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FleetStage]:
    shares = SHARES if request.node.get_closest_marker("long") else FEW
    with sure_redis(tmp_path) as server, fleet_stage(server, tmp_path, shares=shares) as stage:
        yield stage


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabStage]:
    build_image(IMAGE)
    with lab_stage(tmp_path) as stage:
        yield stage
