"""The catalog of a running node: reloaded on a change, on SIGHUP and on request; a broken file changes nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from api.catalog.entries import ENGINE, a_catalog, an_engine
from api.node import api_node
from lab.api_process import UP_WITHIN, ApiProcess
from lab.parts import eventually
from structlog.testing import capture_logs

from aima_api.catalog.live import LiveCatalog
from aima_core.errors import CatalogMistake

OTHER_PORT = ENGINE.replace("port: 8000", "port: 9000")
BROKEN = ENGINE.replace("port: 8000", "port: many")


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return a_catalog(tmp_path / "overlay")


def test_a_changed_file_is_in_force_after_the_next_pass(overlay: Path) -> None:
    live = LiveCatalog(overlay)
    an_engine(overlay, OTHER_PORT)

    live.reload_changed()

    assert live.current.engine("parrot-cpu").port == 9000


def test_an_added_and_a_removed_file_are_noticed(overlay: Path) -> None:
    live = LiveCatalog(overlay)
    second = overlay / "engines/parrot/parrot-gpu.yaml"

    second.write_text(ENGINE.replace("parrot-cpu", "parrot-gpu"))
    live.reload_changed()
    assert "parrot-gpu" in [each.name for each in live.current.engines]

    second.unlink()
    live.reload_changed()
    assert "parrot-gpu" not in [each.name for each in live.current.engines]


def test_nothing_is_read_while_nothing_changes(overlay: Path) -> None:
    live = LiveCatalog(overlay)
    before = live.current

    live.reload_changed()

    assert live.current is before


def test_a_mistake_keeps_the_previous_catalog_and_is_reported_until_it_is_fixed(overlay: Path) -> None:
    live = LiveCatalog(overlay)
    an_engine(overlay, BROKEN)

    with capture_logs() as log:
        live.reload_changed()
    assert live.current.engine("parrot-cpu").port == 8000
    assert "parrot-cpu.yaml" in live.status().mistakes
    assert [(each["event"], "parrot-cpu.yaml" in each["reason"]) for each in log] == [("catalog reload failed", True)]

    an_engine(overlay, OTHER_PORT)
    live.reload_changed()
    assert live.current.engine("parrot-cpu").port == 9000
    assert live.status().mistakes == ""


def test_an_unreadable_overlay_keeps_the_previous_catalog(overlay: Path) -> None:
    live = LiveCatalog(overlay)
    overlay.rename(overlay.with_name("away"))

    live.reload_changed()

    assert live.current.engine("parrot-cpu").port == 8000
    assert live.status().mistakes


def test_a_node_starts_with_a_valid_catalog_only(overlay: Path) -> None:
    an_engine(overlay, BROKEN)

    with pytest.raises(CatalogMistake):
        LiveCatalog(overlay)


@pytest.mark.redis
def test_a_node_serves_the_changed_entry_without_a_restart(redis_url: str, overlay: Path) -> None:
    with api_node(redis_url, catalog=overlay) as node:
        an_engine(overlay, OTHER_PORT)

        assert eventually(lambda: node.get("/v1/engines/parrot-cpu").json()["port"] == 9000, within=UP_WITHIN)


@pytest.mark.redis
def test_a_reload_on_request_reports_the_mistakes(redis_url: str, overlay: Path) -> None:
    with api_node(redis_url, catalog=overlay) as node:
        before = node.get("/v1/catalog").json()
        an_engine(overlay, BROKEN)

        status = node.post("/v1/catalog:reload").json()

        assert (before["overlay"], before["mistakes"]) == (str(overlay), "")
        assert "`many` is text to YAML, not a whole number" in status["mistakes"]
        assert status["engines"] == before["engines"]


def test_sighup_reloads_the_catalog_and_ends_nothing(overlay: Path, tmp_path: Path) -> None:
    node = ApiProcess("redis://127.0.0.1:1/0", tmp_path, catalog=overlay)
    node.begin()
    log = tmp_path / "api.log"
    try:
        assert eventually(lambda: "Listening" in log.read_text(), within=UP_WITHIN)

        node.send(signal.SIGHUP)

        assert eventually(lambda: "catalog reloaded" in log.read_text(), within=UP_WITHIN)
        assert node.client.get("/v1/engines/parrot-cpu").status_code == 200
    finally:
        node.kill()
