"""What is killed during a shared fetch, and returns within seconds, costs little over the uplink.

Only the bytes of the origin count. A killed fetcher has up to six leases. Of each it fetches again at most what it has
received since it journalled a prefix (1 MiB), what was not read from the connection (256 KiB), and a last write of the
origin (64 KiB): together two per cent of a model of 400 MiB. Pieces on their way between hosts are fetched again over
the LAN.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from typing import NamedTuple

import pytest
from lab.api_process import api_process
from lab.forked import launch
from lab.model_origin import ModelOrigin
from lab.parts import eventually
from lab.random_files import Random, RandomFiles
from lab.redis_server import RedisServer
from lab.site import Fetching, SharingHost, site
from worker.models.conftest import REPOSITORY, manifest_of

from aima_core.domain.models import Manifest
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_worker.models import sharing
from aima_worker.models.fetch import JOURNALLED_EVERY
from aima_worker.models.layout import JOURNAL, place_of
from aima_worker.models.origin import CHUNK
from aima_worker.models.pieces import JournalReader

pytestmark = [pytest.mark.redis, pytest.mark.slow]

MIB = 1 << 20
FILES = RandomFiles(
    {
        "config.json": b"{}",
        "a.safetensors": Random(66 * MIB, 41),
        "b.safetensors": Random(36 * MIB, 42),
        "c.safetensors": Random(18 * MIB, 43),
    }
)
SIZE = FILES.size
LEASES = 6
FETCHED_AGAIN = LEASES * (MIB + (256 << 10) + (64 << 10))
SEEDS = [pytest.param(seed, marks=[pytest.mark.long] if seed >= 1 else []) for seed in range(20)]
WITHIN = timedelta(seconds=60)


class Shared(NamedTuple):
    """A fetch of three hosts that is paused where something is to be killed."""

    hosts: list[SharingHost]
    manifest: Manifest
    origin: ModelOrigin

    def goes_on(self) -> None:
        self.origin.paused_at = None
        self.origin.release.set()

    def journalled(self) -> dict[tuple[str, int], int]:
        """The most bytes of each piece that a host has journalled."""
        most: dict[tuple[str, int], int] = {}
        for reader in map(self._journal, self.hosts):
            found = {piece: piece.length for piece in reader.hashes}
            found |= {piece: prefix.length for piece, prefix in reader.prefixes.items()}
            for piece, length in found.items():
                key = self.manifest.by_path[piece.file].path, piece.number
                most[key] = max(most.get(key, 0), length)
        return most

    def _journal(self, host: SharingHost) -> JournalReader:
        place = place_of(host.store.root, self.manifest.model, self.manifest.name, published=False)
        reader = JournalReader(place / JOURNAL, self.manifest.by_path)
        reader.read()
        return reader

    def is_settled(self) -> bool:
        """All that the origin has sent is received, and journalled but for the last megabyte of each piece."""
        try:
            there = self.journalled()
        except FileNotFoundError:  # race: a host has not begun yet
            return False
        sent = dict(self.origin.sent_of)
        return all(length - there.get(piece, 0) < JOURNALLED_EVERY + CHUNK for piece, length in sent.items())

    def assert_ends(self) -> None:
        assert [host.content(self.manifest) for host in self.hosts] == [FILES] * len(self.hosts)
        again = self.origin.all_sent - SIZE
        assert again <= FETCHED_AGAIN, {piece: sent for piece, sent in self.origin.sent_of.items() if sent > 16 * MIB}


@pytest.fixture(autouse=True)
def a_slow_start_is_no_absence(monkeypatch):
    """Where this machine is busy, what was killed would else return later than it is waited for."""
    monkeypatch.setattr(sharing, "UNREACHABLE_AFTER", WITHIN)
    monkeypatch.setattr(sharing, "ALONE_AFTER", WITHIN)


@pytest.fixture
def shared(own_redis, tmp_path, origin, request) -> Iterator[Shared]:
    """It is paused by the seed in the test's name."""
    origin.publish(REPOSITORY, FILES)
    seed = request.node.callspec.params["seed"]
    origin.paused_at = int(random.Random(f"{request.function.__name__} {seed}").uniform(0.02, 0.95) * SIZE)
    manifest = manifest_of(origin, FILES)
    with closing(command_link(own_redis.url)) as redis, ExitStack() as stack:
        hosts = stack.enter_context(site(redis, tmp_path / "site", "alpha", "beta", "gamma", model_stall="1m"))
        yield Shared(hosts, manifest, origin)
        for host in hosts:
            shutil.rmtree(host.store.root)


class FetchingProcess:
    """The fetch of a host in a process, with its data plane in another, as a worker and its data plane are."""

    def __init__(self, host: SharingHost, redis: RedisServer, manifest: Manifest) -> None:
        file = host.directory / "manifest.json"
        file.write_text(manifest.model_dump_json())
        words = [host.store.root, host.settings.state_dir, file, host.name, redis.url, host.url]
        (read, begin), (ready, written) = os.pipe(), os.pipe()
        self._begin: int | None = begin
        with os.fdopen(read) as stdin, os.fdopen(written) as stdout:
            self._process = launch("worker.models.fetching", *words, stdin=stdin, stdout=stdout)
        with os.fdopen(ready) as answer:
            assert answer.readline() == "ready\n"

    def begin(self) -> None:
        assert self._begin is not None
        os.write(self._begin, b"\n")

    def kill(self) -> None:
        """Closes its input as well."""
        self._process.kill()
        self._process.wait()
        if self._begin is not None:
            os.close(self._begin)
            self._begin = None

    def wait(self) -> int:
        return self._process.wait(WITHIN.total_seconds())


@contextmanager
def fetching(host: SharingHost, redis: RedisServer, manifest: Manifest) -> Iterator[FetchingProcess]:
    process = FetchingProcess(host, redis, manifest)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def fetching_here(shared: Shared, hosts: list[SharingHost]) -> Iterator[list[Fetching]]:
    running = [host.fetch(shared.manifest) for host in hosts]
    try:
        yield running
    finally:
        for each in running:
            each.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_fetcher_resumes_while_the_others_go_on(shared, own_redis, seed):
    alpha, *others = shared.hosts
    with (
        fetching(alpha, own_redis, shared.manifest) as killed,
        fetching(alpha, own_redis, shared.manifest) as resumed,
        fetching_here(shared, others) as running,
    ):
        killed.begin()
        assert eventually(lambda: shared.origin.all_sent >= shared.origin.paused_at, within=WITHIN)
        assert eventually(shared.is_settled, within=WITHIN)
        killed.kill()
        shared.goes_on()
        resumed.begin()

        assert resumed.wait() == 0
        for fetch in running:
            fetch.wait()

    shared.assert_ends()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_data_plane_serves_again(shared, seed):
    with fetching_here(shared, shared.hosts) as running:
        assert eventually(lambda: shared.origin.all_sent >= shared.origin.paused_at, within=WITHIN)
        killed = random.Random(seed).choice(shared.hosts)
        killed.die()
        shared.goes_on()
        killed.serve()

        for fetch in running:
            fetch.wait()

    shared.assert_ends()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_redis_knows_the_fetch_again(shared, own_redis, seed):
    with fetching_here(shared, shared.hosts) as running:
        assert eventually(lambda: shared.origin.all_sent >= shared.origin.paused_at, within=WITHIN)
        own_redis.kill()
        shared.goes_on()
        own_redis.start()

        for fetch in running:
            fetch.wait()

    shared.assert_ends()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fetch_needs_no_api_node_once_its_hosts_are_certified(shared, own_redis, tmp_path, seed):
    with own_redis.client() as redis:
        redis.delete(keys.HOST_CERTIFICATES)
    with api_process(own_redis.url, tmp_path) as api:
        assert eventually(lambda: all_certified(shared.hosts), within=WITHIN)
        with fetching_here(shared, shared.hosts) as running:
            assert eventually(lambda: shared.origin.all_sent >= shared.origin.paused_at, within=WITHIN)
            api.kill()
            shared.goes_on()

            for fetch in running:
                fetch.wait()

    shared.assert_ends()


def all_certified(hosts: list[SharingHost]) -> bool:
    for host in hosts:
        host.join()  # as it does every few seconds
    return all(host.neighbours.is_certified() for host in hosts)
