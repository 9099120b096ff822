"""A model from its origin to an engine that reads it, by the command line alone."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from api.catalog.entries import write
from lab.model_origin import COMMIT, Faults, ModelOrigin, model_origin
from lab.parts import eventually
from lab.running import Aima

from aima_core import errors

pytestmark = [pytest.mark.redis, pytest.mark.slow]

REPOSITORY = "maker/pages"
FILES = {"config.json": b'{"pages": 1}', "weights.bin": bytes(range(256)) * 80_000}
SERVICE = "svc-shelf-pages"
ENGINE = f"""\
name: shelf-cpu
type: shelf
image: shelf:1
command: [serve]
port: 8000
model_mount: /models
health_check: {{path: /config.json, timeout: 30s}}
requires: {{platforms: [linux/arm64, linux/amd64], memory: 10MB}}
native:
  command: [{sys.executable}, -m, http.server, "{{port}}", --bind, "{{address}}", --directory, "{{model}}"]
  install: it is Python
"""
MODEL = f"""\
name: Pages
type: test
size: 21MB
engines: [shelf-cpu]
source: hf:{REPOSITORY}@main
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[ModelOrigin]:
    with model_origin() as origin:
        origin.publish(REPOSITORY, FILES)
        yield origin


@pytest.fixture(scope="module")
def aima(tmp_path_factory: pytest.TempPathFactory, origin: ModelOrigin) -> Iterator[Aima]:
    directory = tmp_path_factory.mktemp("models")
    write(directory / "catalog/engines/shelf/shelf-cpu.yaml", ENGINE)
    write(directory / "catalog/models/test/Pages.yaml", MODEL)
    settings = {
        "HF_ENDPOINT": origin.url,
        "AIMA_API__CATALOG": str(directory / "catalog"),
        "AIMA_NATIVE__USERS": "none",  # another user could not execute the Python of the tests
        "AIMA_HOST__DISK_RESERVE": "1MB",
    }
    running = Aima(directory, installation=f"t{uuid.uuid4().hex[:12]}", runtime="process", **settings)
    running.up()
    yield running
    running.end()


@pytest.fixture(autouse=True)
def nothing_is_there(aima: Aima, origin: ModelOrigin) -> Iterator[None]:
    yield
    aima.clear()
    aima.here("model", "unpin", "pages", "--host", "alpha", "--wait")
    aima.here("model", "remove", "pages", "--wait")
    origin.faults.clear()
    origin.sent.clear()


def stored(aima: Aima) -> list[dict[str, object]]:
    found: list[dict[str, object]] = aima.record("model", "list", "--host", "alpha")
    return found


def test_a_start_fetches_the_model_and_the_engine_serves_its_files(aima: Aima, origin: ModelOrigin) -> None:
    said = aima.here("service", "start", SERVICE, "--wait")

    assert said.returncode == 0, said.stderr + said.stdout + aima.log()
    assert "Fetching pages from hf:maker/pages@main (0123456789ab)" in said.stdout
    assert "Model fetch complete (20.5 MB in" in said.stdout
    endpoint = aima.instance(SERVICE)["endpoint"]
    assert {name: urlopen(f"{endpoint}/{name}", timeout=5).read() for name in FILES} == FILES


def test_a_second_start_fetches_nothing(aima: Aima, origin: ModelOrigin) -> None:
    aima.here("model", "pull", "Pages", "--wait")
    origin.sent.clear()

    said = aima.here("service", "start", SERVICE, "--wait")

    assert said.returncode == 0, said.stderr
    assert "Fetching" not in said.stdout
    assert origin.all_sent == 0


def test_a_pulled_model_is_listed_and_removed(aima: Aima) -> None:
    said = aima.here("model", "pull", "pages", "--wait")
    assert eventually(lambda: len(stored(aima)) == 1)  # announced by a heartbeat
    [listed] = stored(aima)
    in_the_catalog = aima.record("model", "show", "Pages")["files"]
    removed = aima.here("model", "remove", "Pages", "--wait")

    assert said.returncode == 0, said.stderr
    assert (listed["model"], listed["revision"], listed["verified"]) == ("pages", COMMIT, True)
    assert in_the_catalog == ["alpha"]
    assert removed.returncode == 0, removed.stderr
    assert eventually(lambda: stored(aima) == [])


def test_a_model_in_use_is_not_removed_and_says_by_what(aima: Aima) -> None:
    aima.here("service", "start", SERVICE, "--wait")

    said = aima.here("model", "remove", "pages", "--wait")

    assert said.returncode == errors.ModelInUse.exit_code
    assert f"pages on alpha is used by {SERVICE}@alpha." in said.stderr
    assert eventually(lambda: [each["used_by"] for each in stored(aima)] == [[f"{SERVICE}@alpha"]])


def test_a_pinned_model_is_listed_kept_and_removed_once_it_is_unpinned(aima: Aima) -> None:
    aima.here("model", "pull", "pages", "--wait")
    pinned = aima.here("model", "pin", "pages", "--host", "alpha", "--wait")
    assert eventually(lambda: [each["pinned"] for each in stored(aima)] == [True])

    pruned = aima.here("model", "prune", "--all", "--host", "alpha", "--wait")
    refused = aima.here("model", "remove", "pages", "--wait")
    unpinned = aima.here("model", "unpin", "pages", "--host", "alpha", "--wait")
    removed = aima.here("model", "remove", "pages", "--wait")

    assert pinned.returncode == 0, pinned.stderr
    assert "pages on alpha is pinned." in pinned.stdout
    assert "0 of 1 model (0 B) were removed from alpha." in pruned.stdout
    assert refused.returncode == errors.ModelPinned.exit_code
    assert "aima model unpin pages --host alpha" in refused.stderr
    assert (unpinned.returncode, removed.returncode) == (0, 0)


def test_what_an_engine_has_mounted_is_not_collected_and_its_last_use_is_listed(aima: Aima) -> None:
    aima.here("service", "start", SERVICE, "--wait")

    [kept] = aima.record("model", "prune", "--all", "--dry-run", "--host", "alpha")
    aima.here("model", "prune", "--all", "--host", "alpha", "--wait")
    aima.here("service", "stop", SERVICE, "--wait")
    assert eventually(lambda: [bool(each["used_at"]) for each in stored(aima)] == [True])
    dry = aima.here("model", "prune", "--all", "--dry-run", "--host", "alpha")
    there = (aima.directory / "state-models/pages").exists()
    pruned = aima.here("model", "prune", "--all", "--host", "alpha", "--wait")

    assert [entry["kept"] for entry in kept["collection"]] == [f"mounted by {SERVICE}@alpha"]
    assert "1 of 1 model (20." in dry.stderr
    assert there
    assert "1 of 1 model (20." in pruned.stdout
    assert not (aima.directory / "state-models/pages").exists()
    assert "prune-models" in {each["kind"] for each in aima.record("operation", "list", "--kind", "prune-models")}


def test_a_start_whose_model_cannot_be_fetched_fails_with_the_reason_and_leaves_nothing(
    aima: Aima, origin: ModelOrigin
) -> None:
    origin.faults["weights.bin"] = Faults(status=403)

    said = aima.here("service", "start", SERVICE, "--wait")

    assert said.returncode == errors.SourceDenied.exit_code, said.stderr
    assert "denied access to weights.bin: 403 Forbidden" in said.stderr
    assert aima.record("port", "list") == []


def test_a_misspelled_model_is_refused_with_the_nearest(aima: Aima) -> None:
    said = aima.here("model", "pull", "Page", "--wait")

    assert said.returncode == errors.UnknownModel.exit_code
    assert "nearest: Pages" in said.stderr


def test_events_of_a_fetch_carry_its_progress(aima: Aima) -> None:
    aima.here("model", "pull", "pages", "--wait")

    [operation] = [each for each in aima.record("operation", "list") if each["kind"] == "pull-model"][:1]

    assert operation["model"] == "pages"
    assert json.loads(json.dumps(operation["fetch"]))["verified"] == sum(map(len, FILES.values()))


def test_the_store_is_beside_the_state_directory(aima: Aima) -> None:
    aima.here("model", "pull", "pages", "--wait")

    place: Path = aima.directory / "state-models/pages"
    [revision] = place.iterdir()

    assert {path.name for path in (revision / "files").iterdir()} == {*FILES}
