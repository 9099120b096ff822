"""A fetch that is killed at any byte is resumed: at most two per cent of the model are fetched again."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from lab.parts import eventually
from lab.random_files import Random, RandomFiles
from worker.models.conftest import REPOSITORY, manifest_of

from aima_core.domain.ids import HostName
from aima_worker.models.fetch import JOURNALLED_EVERY
from aima_worker.models.store import ModelStore

MIB = 1 << 20
FILES = RandomFiles(
    {
        "config.json": b"{}",
        "a.safetensors": Random(150 * MIB, 11),
        "b.safetensors": Random(90 * MIB, 12),
        "c.safetensors": Random(16 * MIB, 13),
    }
)
SIZE = FILES.size
KILL_POINTS = [random.Random(seed).uniform(0.02, 0.97) for seed in range(3)] + [0.9]
CONNECTIONS = 4


def fetching(place: Path, manifest: Path) -> subprocess.Popen[bytes]:
    program = Path(__file__).with_name("fetching.py")
    words = [sys.executable, str(program), str(place / "store"), str(place / "state"), str(manifest)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_fetch_resumes_with_nearly_every_byte(tmp_path, origin):
    origin.publish(REPOSITORY, FILES)
    manifest = manifest_of(origin, FILES)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())

    again = {}
    for point in KILL_POINTS:
        place = tmp_path / f"{point:.3f}"
        place.mkdir()
        origin.sent.clear()
        origin.release.clear()
        origin.paused_at = int(point * SIZE)
        killed = fetching(place, tmp_path / "manifest.json")
        store = ModelStore(place / "store", host=HostName("alpha"))
        assert eventually(lambda limit=origin.paused_at: origin.all_sent >= limit)
        assert eventually(lambda store=store: held(store) >= origin.all_sent - CONNECTIONS * JOURNALLED_EVERY)
        killed.kill()
        killed.wait()
        origin.paused_at = None
        origin.release.set()
        assert eventually(lambda: not origin.sending)

        assert fetching(place, tmp_path / "manifest.json").wait() == 0

        again[point] = (origin.all_sent - SIZE) / SIZE
        published = place / "store/small" / manifest.name / "files"
        assert {path.name: path.read_bytes() for path in published.iterdir()} == FILES

    assert max(again.values()) <= 0.02, again


def held(store: ModelStore) -> int:
    return sum(each.received for each in store.listing())
