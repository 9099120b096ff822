"""A fetch that is killed at any byte is resumed: little is fetched again, which does not grow with the model.

Of each connection, what it has received since it journalled a prefix (1 MiB), what was not read from it (256 KiB), and
a last write of the origin (64 KiB): together two per cent of a model of 256 MiB.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from lab.forked import Process, launch
from lab.model_origin import ModelOrigin
from lab.parts import eventually
from lab.random_files import Random, RandomFiles
from worker.models.conftest import REPOSITORY, in_directory, manifest_of
from worker.models.fetching import a_fetch, settings_of

from aima_core.domain.ids import HostName
from aima_worker.models.fetch import JOURNALLED_EVERY
from aima_worker.models.store import ModelStore

MIB = 1 << 20
FILES = RandomFiles(
    {
        "config.json": b"{}",
        "a.safetensors": Random(60 * MIB, 11),
        "b.safetensors": Random(36 * MIB, 12),
        "c.safetensors": Random(16 * MIB, 13),
    }
)
SIZE = FILES.size
KILL_POINTS = [random.Random(seed).uniform(0.02, 0.97) for seed in (1, 0)]
KILL_POINTS_IN_LONG_RUNS = [*KILL_POINTS, *(random.Random(seed).uniform(0.02, 0.97) for seed in range(2, 12))]
CONNECTIONS = 4
WITHIN = timedelta(seconds=60)
FETCHED_AGAIN = CONNECTIONS * (MIB + (256 << 10) + (64 << 10))


def fetching(place: Path, manifest: Path) -> Process:
    return launch("worker.models.fetching", place / "store", place / "state", manifest, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_fetch_resumes_with_nearly_every_byte(tmp_path, origin, request):
    points = KILL_POINTS_IN_LONG_RUNS if request.config.getoption("--long") else KILL_POINTS
    origin.publish(REPOSITORY, FILES)
    manifest = manifest_of(origin, FILES)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())

    again = {}
    for point in points:
        place = tmp_path / f"{point:.3f}"
        place.mkdir()
        origin.sent.clear()
        origin.release.clear()
        origin.paused_at = int(point * SIZE)
        killed = fetching(place, tmp_path / "manifest.json")
        store = ModelStore(place / "store", host=HostName("alpha"))
        assert eventually(lambda limit=origin.paused_at: origin.all_sent >= limit, within=WITHIN)
        assert eventually(lambda store=store: is_journalled(origin, store), within=WITHIN)
        killed.kill()
        killed.wait()
        origin.paused_at = None
        origin.release.set()
        assert eventually(lambda: not origin.sending)

        assert fetching(place, tmp_path / "manifest.json").wait() == 0

        again[point] = origin.all_sent - SIZE
        published = place / "store/small" / manifest.name / "files"
        assert {path.name: path.read_bytes() for path in published.iterdir()} == FILES

    assert max(again.values()) <= FETCHED_AGAIN, again


@pytest.mark.parametrize("point", [0.3, 0.9])
def test_a_killed_copy_of_a_directory_resumes_with_nearly_every_byte(tmp_path, point):
    (tmp_path / "manifest.json").write_text(in_directory(tmp_path, "mine", FILES).model_dump_json())
    places = [str(tmp_path / each) for each in ("store", "state", "manifest.json")]
    killed_at = int(point * SIZE)
    killed = launch("worker.models.fetching", *places, env={**os.environ, "KILLED_AT": str(killed_at)})
    assert killed.wait() == -signal.SIGKILL

    again = a_fetch(settings_of(*places), places[-1])
    for _ in again:
        pass

    assert killed_at + again._arrived - SIZE <= FETCHED_AGAIN
    [published] = (tmp_path / "store/small").glob("*/files")
    assert {path.name: path.read_bytes() for path in published.iterdir()} == FILES


def is_journalled(origin: ModelOrigin, store: ModelStore) -> bool:
    """All that was sent, but for the last megabyte of each connection."""
    return held(store) >= origin.all_sent - CONNECTIONS * JOURNALLED_EVERY


def held(store: ModelStore) -> int:
    return sum(each.received for each in store.listing())
