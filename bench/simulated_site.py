"""A site in a simulation: the real coordination of fetches on Redis, with links whose time is counted, not waited for.

The uploads of a host, its downloads and the uplink are each divided equally by what runs over them. As in a fetch, a
host states what it has right after a piece is complete, and at the interval of exchanges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from aima_core.domain.ids import HostName, ModelId, Site
from aima_core.domain.models import Manifest, ManifestFile
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_core.store.fetching import Exchanged, FetchingStore, Found, Report
from aima_worker.models.pieces import PIECE_SIZE, JournalReader, Piece, PieceQueue
from aima_worker.models.sharing import PEER_CONNECTIONS, SETTLE_DELAY, Neighbours, SharedFetch

ORIGIN_CONNECTIONS = 4
STATED_FOR = timedelta(hours=1)


class Links(NamedTuple):
    """Bytes per second."""

    lan: float
    """Of each host, in each direction."""
    uplink: float
    """Of the site."""


class Outcome(NamedTuple):
    seconds: float
    """Until all hosts have all pieces."""
    from_origin: int
    """Bytes."""


class _Store(FetchingStore):
    """Statements last: they would expire by the clock of this machine, which may need minutes for a simulation."""

    def exchange(self, manifest: Manifest, site: Site, host: HostName, report: Report, *, first: int = 0) -> Exchanged:
        lasting = report._replace(counts_for=STATED_FOR)
        return super().exchange(manifest, site, host, lasting, first=first)


class _Neighbours(Neighbours):
    """Certified, with a data plane."""

    def __init__(self, redis: TextRedis, settings: Settings) -> None:
        super().__init__(redis, settings)
        self.url = f"http://{self.host}:7091"
        self.store = _Store(redis)

    def is_certified(self) -> bool:
        return True

    def seeds(self, manifest: Manifest) -> dict[HostName, str]:  # noqa: ARG002 as its base
        return {}


@dataclass
class _Host:
    name: HostName
    queue: PieceQueue
    shared: SharedFetch
    running: dict[Piece, float] = field(default_factory=dict)
    """Bytes that are left of each download."""
    exchanges_at: float = 0.0

    @property
    def is_complete(self) -> bool:
        snapshot = self.queue.snapshot()
        return not snapshot.missing and not snapshot.flights


class _Flow(NamedTuple):
    host: _Host
    piece: Piece
    source: HostName | None
    rate: float
    """Bytes per second."""


def simulate(redis: TextRedis, directory: Path, *, hosts: int, pieces: int, links: Links, seeds: int = 0) -> Outcome:
    """The first `seeds` hosts have the model already."""
    size = pieces * PIECE_SIZE
    file = ManifestFile(path="weights", size=size, sha256="0" * 64)
    manifest = Manifest(model=ModelId("simulated"), source="hf:a/b@main", revision="0" * 40, files=(file,))
    made = [_host(redis, directory, manifest, number, has_all=number < seeds) for number in range(hosts)]
    now, from_origin = 0.0, 0.0
    while not all(host.is_complete for host in made):
        for host in made:
            if host.exchanges_at <= now:
                host.shared.exchange()
                host.exchanges_at = now + host.shared.interval.total_seconds()
            _begin(host)
        flows = _flows(made, links)
        step = min(
            [host.exchanges_at - now for host in made] + [host.running[piece] / rate for host, piece, _, rate in flows]
        )
        now += step
        from_origin += _move(flows, step, now)
        assert now < 20 * size / min(links), "it does not end"
    return Outcome(now, round(from_origin))


def ideal(*, pieces: int, links: Links, seeds: int = 0) -> float:
    """Seconds: the model over the uplink or out of a seed once, and a copy of it into each host."""
    size = pieces * PIECE_SIZE
    return size / links.lan if seeds else size / min(links)


def _host(redis: TextRedis, directory: Path, manifest: Manifest, number: int, *, has_all: bool) -> _Host:
    name = f"host-{number:02}"
    settings = Settings.model_validate({"state_dir": directory / name, "host": {"name": name}})
    everything = PieceQueue(manifest.by_path, ()).of(0)
    queue = PieceQueue(manifest.by_path, everything if has_all else (), alone=False)
    journal = JournalReader(directory / name / "journal", manifest.by_path)
    neighbours = _Neighbours(redis, settings)
    shared = SharedFetch(neighbours, manifest, queue, connections=ORIGIN_CONNECTIONS, journal=journal)
    return _Host(HostName(name), queue, shared)


def _begin(host: _Host) -> None:
    """What its threads would take from the queue."""
    threads = ORIGIN_CONNECTIONS + PEER_CONNECTIONS
    while len(host.running) < threads and (download := host.queue.take_now()) is not None:
        host.running[download.piece] = float(download.piece.length)


def _flows(hosts: Sequence[_Host], links: Links) -> list[_Flow]:
    running = [
        (host, piece, source)
        for host in hosts
        for piece, source in host.queue.snapshot().flights.items()
        if piece in host.running
    ]
    up = Counter(source for _, _, source in running)
    down = Counter(host.name for host, _, _ in running)
    return [
        _Flow(
            host,
            piece,
            source,
            min(links.lan / down[host.name], (links.uplink if source is None else links.lan) / up[source]),
        )
        for host, piece, source in running
    ]


def _move(flows: Sequence[_Flow], step: float, now: float) -> float:
    """Returns the bytes that crossed the uplink."""
    crossed = 0.0
    for host, piece, source, rate in flows:
        moved = min(rate * step, host.running[piece])
        crossed += moved if source is None else 0
        host.running[piece] -= moved
        if host.running[piece] < 1:
            del host.running[piece]
            host.shared.completed(piece, Found("0" * 64, host.name))
            host.queue.add(piece)
            host.exchanges_at = min(host.exchanges_at, now + SETTLE_DELAY.total_seconds())
    return crossed
