"""Sharing of models between the hosts of a site: each piece crosses the uplink once, and the LAN the other times.

Hosts exchange statements through Redis, and pieces between data planes. Without Redis, or without a certificate of its
own key, a host downloads from the origin alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import reduce
from operator import or_
from random import Random
from threading import Lock, Thread
from typing import NamedTuple

import structlog

from aima_core.domain.ids import HostName, Site
from aima_core.domain.models import Manifest, Source
from aima_core.errors import AimaError, CorruptData, NotCertified
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_core.store.fetching import Exchanged, FetchingStore, Found, Report, Statement
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_core.system.background import BackgroundLoop
from aima_core.trust.peers import PEERS, PiecesOf, host_key
from aima_core.trust.tokens import BearerSigner
from aima_worker.models.choice import Other, PieceChoice, choose, numbers_in, set_of
from aima_worker.models.pieces import PIECE_SIZE, Download, JournalReader, Piece, PieceQueue

PEER_CONNECTIONS = 4
"""Of one fetch to other hosts."""
EXCHANGE_INTERVAL = timedelta(seconds=0.5)
IDLE_INTERVAL = timedelta(seconds=0.1)
"""While a connection to other hosts is idle, since all of them were busy."""
SETTLE_DELAY = timedelta(milliseconds=10)
"""Pieces that are complete at about the same time take one exchange."""
OTHERS_RETURN = 2 * EXCHANGE_INTERVAL
"""The delay of lease requests after a loss of data in Redis, until the other hosts have stated theirs again."""
ALONE_AFTER = timedelta(seconds=5)
"""The timeout without an exchange, after which a fetch continues without coordination."""
SEEDS_INTERVAL = timedelta(seconds=10)
CERTIFICATE_INTERVAL = timedelta(seconds=30)
RETRY_DELAY = timedelta(seconds=1)
"""Before a host that failed is asked again."""
UNREACHABLE_AFTER = timedelta(seconds=5)
"""A host that has failed for this long is not waited for: its pieces come from the origin."""
END_TIMEOUT = timedelta(seconds=1)
"""How long the end of a fetch waits for Redis."""
COMPLETE_FOR = timedelta(minutes=2)
"""How long a complete fetch is stated, until the host's facts have announced the model."""
MOST_WANTED = 100
"""Pieces of one request for leases."""
AHEAD = 2
"""Downloads that wait for a thread, so that no thread waits for an exchange."""

_log = structlog.get_logger()


class Neighbours:
    """The other hosts of this host's site, for all of its fetches."""

    def __init__(self, redis: TextRedis, settings: Settings) -> None:
        self.host: HostName = settings.host.name
        self.url = settings.dataplane_url if settings.dataplane.uploads else None
        """By which the others get pieces from this host; None if it serves none."""
        self.site: Site = settings.host.site
        self.store = FetchingStore(redis)
        self._hosts = HostStore(redis)
        self._tokens = BearerSigner(PEERS, host_key(settings), now=now)
        self._certified_at = float("-inf")
        self.running: dict[str, SharedFetch] = {}
        """The last fetch of each manifest, by its digest: an ended one states nothing in the place of the next."""
        self._lock = Lock()

    def token(self, access: PiecesOf) -> str:
        """Raises NotCertified."""
        with self._lock:
            return self._tokens.token(access)

    def is_certified(self) -> bool:
        """Reads the certificate of this host's key, if it is old or has expired. Raises BrokerUnavailable."""
        with self._lock:
            at = time.monotonic()
            is_recent = at - self._certified_at <= CERTIFICATE_INTERVAL.total_seconds()
            if not (is_recent and self._tokens.is_certified):
                certificate = self._hosts.certificate_of(self.host)
                if certificate is None:
                    return False
                try:
                    self._tokens.certify(certificate)
                except NotCertified as wrong:
                    _log.warning("certificate of this host not usable", reason=str(wrong))
                    return False
                self._certified_at = at
            return self._tokens.is_certified

    def seeds(self, manifest: Manifest) -> dict[HostName, str]:
        """URLs of the data planes of live hosts that have published it: the site's, and the one whose directory it is.

        Raises BrokerUnavailable.
        """
        source = Source.parse(manifest.source)
        return {
            host.name: host.dataplane
            for host in self._hosts.all()
            if host.live and host.dataplane and host.name != self.host
            if host.site == self.site or host.name == source.host
            if any(
                each.verified and (each.model, each.name) == (manifest.model, manifest.name)
                for each in host.stored or ()
            )
        }


class _Known(NamedTuple):
    statement: Statement
    pieces: int


class SharedFetch:
    """The coordination of one fetch with other hosts: offers downloads to its queue, and states its pieces."""

    def __init__(
        self,
        neighbours: Neighbours,
        manifest: Manifest,
        queue: PieceQueue,
        *,
        connections: int,
        journal: JournalReader,
    ) -> None:
        """The journal as an earlier fetch has left it: its pieces are published, and its prefixes leased first.

        Without `connections` to the origin, it leases nothing: the host downloads from other hosts only.
        """
        self._neighbours = neighbours
        self._manifest = manifest
        self._source_host = Source.parse(manifest.source).host
        self._queue = queue
        self._connections = connections
        files = range(len(manifest.files))
        self._pieces = [piece for file in files for piece in queue.of(file)]
        self._numbers = {piece: number for number, piece in enumerate(self._pieces)}
        self._everything = (1 << len(self._pieces)) - 1
        self._begun = self._set(journal.prefixes)
        self._random = Random(f"{neighbours.host} {manifest.digest}")
        self._known: dict[HostName, _Known] = {}
        self._seeds: dict[HostName, str] = {}
        self._seeds_read = float("-inf")
        self._failing: dict[HostName, _Failing] = {}
        self._avoided: set[HostName] = set()
        self._found = {self._numbers[piece]: Found(digest, neighbours.host) for piece, digest in journal.hashes.items()}
        self._corrected: dict[int, Found] = {}
        self._lost = 0
        """Pieces that a host had downloaded, and that no live host has."""
        self._share = 1.0
        self.interval = EXCHANGE_INTERVAL
        """Until the next exchange."""
        self._has_exchanged = False
        """The first exchange asks for no lease but of begun pieces: what others have is not known before it."""
        self._waits_until = float("-inf")
        self._first = 0
        self._began_at = self._exchanged_at = time.monotonic()
        self._alone = False
        self._lock = Lock()
        self._loop = BackgroundLoop(
            "share",
            self.exchange,
            interval=lambda: self.interval,
            settle_delay=SETTLE_DELAY,
            on_outage=lambda _: self._without_redis(),
        )

    def start(self) -> None:
        self._neighbours.running[self._manifest.digest] = self
        self._loop.start()

    def stop(self, *, complete: bool) -> None:
        """States the end; a complete fetch is offered to others until the facts of this host announce the model."""
        self._loop.stop()
        ending = Thread(target=self._state_end, args=(complete,), name="share ends", daemon=True)
        ending.start()
        ending.join(END_TIMEOUT.total_seconds())

    def _state_end(self, complete: bool) -> None:
        self._loop.stop(within=COMPLETE_FOR)  # race: a pass that still runs would state less
        held = Statement(url=self._neighbours.url, held=f"{self._everything:x}") if complete else Statement()
        counts_for = COMPLETE_FOR if complete else timedelta()
        if self._neighbours.running.get(self._manifest.digest) is not self:
            return
        del self._neighbours.running[self._manifest.digest]
        found, corrected = self._taken(self._found), self._taken(self._corrected)
        try:
            self._exchange(Report(held, found=found, corrected=corrected, counts_for=counts_for))
        except AimaError as failed:
            _log.info("end of a fetch not stated", model=self._manifest.model, reason=str(failed))

    @property
    def waits_for(self) -> str | None:
        """Other hosts, while it downloads nothing itself; None otherwise."""
        with self._lock:
            hosts = sorted(self._known)
        _, missing, flights = self._queue.snapshot()
        if flights or not missing or not hosts:
            return None
        return f"pieces that {', '.join(hosts[:3])}{' and others' if len(hosts) > 3 else ''} download"

    @property
    def share(self) -> float:
        """Of this host in the leases of the site's hosts."""
        return self._share

    # What the threads of the fetch report -----------------------------------------------------------------------------

    def completed(self, piece: Piece, found: Found) -> None:
        """It is journalled."""
        with self._lock:
            self._found[self._numbers[piece]] = found
        self._loop.wake()

    def correct(self, piece: Piece, sha256: str) -> None:
        """The origin has sent other bytes than a host has published."""
        with self._lock:
            self._corrected[self._numbers[piece]] = Found(sha256, self._neighbours.host)

    def succeeded(self, host: HostName) -> None:
        with self._lock:
            self._failing.pop(host, None)

    def failed(self, host: HostName, why: str) -> None:
        """It is asked again after RETRY_DELAY."""
        at = time.monotonic()
        with self._lock:
            before = self._failing.get(host)
            goes_on = before is not None and at - before.until < UNREACHABLE_AFTER.total_seconds()
            since = before.since if before and goes_on else at
            self._failing[host] = _Failing(since, at + RETRY_DELAY.total_seconds())
        _log.info("piece not sent", by=host, model=self._manifest.model, reason=why)
        self._loop.wake()

    def avoid(self, host: HostName) -> None:
        """It has sent or published wrong bytes: this fetch asks it for nothing more."""
        with self._lock:
            self._avoided.add(host)
        self._loop.wake()

    def url_of(self, host: HostName) -> str:
        """Of its data plane; empty if it is gone."""
        with self._lock:
            known = self._known.get(host)
            return (known.statement.url if known else None) or self._seeds.get(host, "")

    # Exchanges --------------------------------------------------------------------------------------------------------

    def exchange(self) -> None:
        """One pass. Raises BrokerUnavailable."""
        try:
            self._pass()
        except CorruptData as wrong:
            _log.warning("hosts of the site not known", model=self._manifest.model, reason=str(wrong))
            self._without_redis()

    def _pass(self) -> None:
        certified = self._neighbours.is_certified()
        self._read_seeds()
        there, missing, flights = self._queue.snapshot()
        leased = [self._numbers[piece] for piece, source in flights.items() if source is None]
        own = {self._numbers[piece]: source for piece, source in flights.items() if source is not None}
        lacking = self._set(missing)
        others, usable = self._others()
        at = time.monotonic()
        shares = (
            certified or at - self._began_at < ALONE_AFTER.total_seconds()
        )  # a new host is certified within seconds
        knows_others = shares and self._has_exchanged and at > self._waits_until
        wanted, unserved = self._not_served(lacking, others, usable) if knows_others else ([], [])
        if shares and not self._has_exchanged:
            wanted = numbers_in(lacking & self._begun)
        room = max(0, self._connections + AHEAD - len(leased)) if self._connections else 0
        wanted, unserved = self._first_of(wanted, room), self._first_of(unserved, room)
        idle = max(0, PEER_CONNECTIONS - len(own))
        chosen = choose(lacking, others, usable if certified else [], own=own, most=3 * idle, random=self._random)
        report = Report(
            Statement(url=self._neighbours.url, held=f"{self._set(there):x}", downloads=own),
            leased=leased,
            found=self._taken(self._found),
            corrected=self._taken(self._corrected),
            wanted=wanted,
            unserved=unserved,
            leases=len(leased) + room,
            asked=[source for _, source in chosen],
            downloads=PEER_CONNECTIONS,
        )
        try:
            answer = self._exchange(report)
        except AimaError:
            with self._lock:
                self._found = {**report.found, **self._found}
                self._corrected = {**report.corrected, **self._corrected}
            raise
        begun = [chosen[number] for number in answer.begun if number < len(chosen)]
        leases = [piece for piece in answer.leased if piece < len(self._pieces)]
        served = self._served_now() if unserved else 0  # race: another host may have leased and completed one meanwhile
        downloads = [Download(self._pieces[piece]) for piece in leases if not served >> piece & 1]
        self._queue.offer([*downloads, *self._from_hosts(begun)], alone=not shares)
        self._note(answer, own_leases=len(leased) + len(answer.leased))
        is_idle = certified and bool(usable) and len(begun) < idle
        self.interval = IDLE_INTERVAL if is_idle else EXCHANGE_INTERVAL
        self._exchanged_at, self._alone = time.monotonic(), not shares
        if not self._has_exchanged:
            self._has_exchanged = True
            self._loop.wake()
        elif not answer.was_known:
            self._waits_until = time.monotonic() + OTHERS_RETURN.total_seconds()

    def _from_hosts(self, begun: list[PieceChoice]) -> Iterator[Download]:
        of = self._neighbours
        known = of.store.digests(self._manifest, of.site, [each.piece for each in begun])
        for piece, source in begun:
            found = known.get(piece)
            # The host whose directory is the source contradicts others: its digest of the piece comes with the piece.
            is_trusted = found and found.publisher not in self._avoided and source != self._source_host
            trusted = found if is_trusted else None
            yield Download(self._pieces[piece], source, *(trusted or (None, None)))

    def _note(self, answer: Exchanged, *, own_leases: int) -> None:
        if len(self._known) == len(answer.hosts):
            others, _ = self._others()
            held = _union(other.pieces for other in others.values())
            self._lost |= sum(1 << piece for piece in answer.downloaded if not held >> piece & 1)
        self._share = max(1, own_leases) / max(1, own_leases + answer.leases)

    def _exchange(self, report: Report) -> Exchanged:
        of = self._neighbours
        exchanged = of.store.exchange(self._manifest, of.site, of.host, report, first=self._first)
        self._first += len(exchanged.statements)
        with self._lock:
            self._known = {host: known for host, known in self._known.items() if host in exchanged.hosts}
            for host, statement in exchanged.statements.items():
                self._known[host] = _Known(statement, statement.pieces & self._everything)
        return exchanged

    def _without_redis(self) -> None:
        if not self._alone and time.monotonic() - self._exchanged_at > ALONE_AFTER.total_seconds():
            self._alone = True
            _log.warning(
                "fetch continues without coordination", model=self._manifest.model, reason="Redis does not answer"
            )
            self._queue.offer((), alone=True)

    def _read_seeds(self) -> None:
        if time.monotonic() - self._seeds_read > SEEDS_INTERVAL.total_seconds():
            seeds = self._neighbours.seeds(self._manifest)
            with self._lock:
                self._seeds, self._seeds_read = seeds, time.monotonic()

    def _others(self) -> tuple[dict[HostName, Other], list[HostName]]:
        """All other hosts, and the subset that serves pieces now."""
        at = time.monotonic()
        with self._lock:
            others = {host: Other(known.pieces, known.statement.downloads) for host, known in self._known.items()}
            for host in self._seeds:
                others[host] = Other(self._everything, others[host].downloads if host in others else {})
            served = {host for host, known in self._known.items() if known.statement.url} | set(self._seeds)
            resting = {host for host, failing in self._failing.items() if failing.until > at}
        return others, sorted(served - resting - self._avoided)

    def _served_now(self) -> int:
        """The pieces of the other hosts that serve some, by their newest statements."""
        others, usable = self._others()
        return _union(others[host].pieces for host in usable)

    def _not_served(
        self, lacking: int, others: Mapping[HostName, Other], usable: list[HostName]
    ) -> tuple[list[int], list[int]]:
        """Missing pieces on no host, and missing pieces on unavailable hosts only."""
        at = time.monotonic()
        with self._lock:
            gone = {host for host, each in self._failing.items() if at - each.since > UNREACHABLE_AFTER.total_seconds()}
            gone |= self._avoided
        held = _union(other.pieces for other in others.values())
        waits_for = {host for host in others if host in usable or (host in self._failing and host not in gone)}
        served = _union(others[host].pieces for host in waits_for)
        self._lost &= lacking & ~held
        wanted, unserved = lacking & ~held & ~self._lost, (lacking & held & ~served) | self._lost
        return numbers_in(wanted & self._begun) + numbers_in(wanted & ~self._begun), numbers_in(unserved)

    def _first_of(self, pieces: list[int], room: int) -> list[int]:
        """Four times what it can lease, since others have leased some; many small pieces count as one."""
        budget, taken = 4 * room * PIECE_SIZE, list[int]()
        for number in pieces[:MOST_WANTED]:
            if budget > 0:
                budget -= self._pieces[number].length
                taken.append(number)
        return taken

    def _set(self, pieces: Iterable[Piece]) -> int:
        return set_of((self._numbers[piece] for piece in pieces), most=len(self._pieces))

    def _taken(self, reported: dict[int, Found]) -> dict[int, Found]:
        with self._lock:
            taken = dict(reported)
            reported.clear()
        return taken


def _union(sets: Iterable[int]) -> int:
    return reduce(or_, sets, 0)


class _Failing(NamedTuple):
    since: float
    until: float
