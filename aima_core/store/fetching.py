"""What the hosts of a site state about their fetches of one model, so that each piece crosses the uplink once.

Each exchange replaces the host's whole statement, which expires within seconds. So a restarted host is described
rightly by its next exchange, and all hosts by one exchange each after a loss of data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints

from aima_core.domain.ids import HostName, Site, WireModel
from aima_core.domain.models import Manifest
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, in_ms
from aima_core.store.readable import readable

STATED_FOR = timedelta(seconds=5)
"""A host that has stated nothing for this long is not waited for."""
MOST_RETURNED = 64
"""Statements in one reply: at larger sites, each exchange returns others."""
UPLOADS = 4
"""Pieces that one host sends at a time: with more, the first would be complete, and sent on, later."""
SITE_LEASES = 16
"""Of pieces of the origin, at one site: more connections share one uplink without any gain."""


class Statement(WireModel):
    """What one host has of a model, and how others get it."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[!-~]{1,300}$")] | None = None
    """Of its data plane; None if it serves none."""
    held: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,70000}$")] = ""
    """A hexadecimal number with bit N set if it has piece N."""
    downloads: Annotated[Mapping[int, HostName], Field(max_length=200)] = {}
    """Pieces that it downloads from other hosts."""

    @property
    def pieces(self) -> int:
        """The number that `held` says."""
        return int(self.held or "0", 16)


class Found(NamedTuple):
    """The digest of a piece, and the host that vouches for it."""

    sha256: str
    publisher: HostName


class Report(NamedTuple):
    """The statement of one exchange, with its requests."""

    statement: Statement
    leased: Iterable[int] = ()
    """Pieces that it downloads from the origin."""
    found: Mapping[int, Found] = {}
    """Of pieces that it has completed since the last exchange; the first host's digest stays."""
    corrected: Mapping[int, Found] = {}
    """Of pieces for which another host had published a wrong one."""
    wanted: Iterable[int] = ()
    """Pieces that no host has, as far as it knows, in the order in which it asks for a lease."""
    unserved: Iterable[int] = ()
    """Pieces that the hosts which have them do not serve."""
    leases: int = 0
    """The limit of its leases, running ones included."""
    asked: Sequence[HostName] = ()
    """Hosts from which it would download a piece each."""
    downloads: int = 0
    """The limit of concurrent downloads from other hosts, running ones included."""
    counts_for: timedelta = STATED_FOR


class Exchanged(NamedTuple):
    leased: list[int]
    """Pieces that the host may download from the origin from now on."""
    downloaded: list[int]
    """Wanted pieces that a host had downloaded before."""
    begun: list[int]
    """Positions of the asked downloads that may begin now."""
    leases: int
    """Of all other hosts."""
    was_known: bool
    """It had stated something before: else nothing is leased, also after a loss of data."""
    hosts: frozenset[str]
    """All other live hosts with a statement about this model."""
    statements: dict[HostName, Statement]
    """Of some of them."""


class FetchingStore:
    """Every call may raise BrokerUnavailable within seconds, or CorruptData."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def exchange(self, manifest: Manifest, site: Site, host: HostName, report: Report, *, first: int = 0) -> Exchanged:
        """`first` rotates through the hosts whose statements are returned."""
        digests = [[str(piece), " ".join(found)] for piece, found in report.found.items()]
        digests += [[str(piece), " ".join(found), "replaces"] for piece, found in report.corrected.items()]
        pieces = (report.leased, report.wanted, report.unserved)
        leased, wanted, unserved = (",".join(map(str, each)) for each in pieces)
        statement = report.statement.model_dump_json(exclude_defaults=True)
        granted, downloaded, begun, leases, was_known, names, *statements = self._run(
            "models/exchange",
            [f"{keys.fetching}{_id(manifest, site)}", f"{keys.pieces}{_id(manifest, site)}"],
            *(host, in_ms(report.counts_for), leased, ",".join(report.statement.downloads.values()), statement),
            *(json.dumps(digests), wanted, unserved, json.dumps(report.asked)),
            *(report.leases, SITE_LEASES, report.downloads, UPLOADS),
            *(first, MOST_RETURNED, in_ms(keys.FETCHING_TTL), in_ms(keys.PIECES_TTL)),
        )
        found = (_statement(name, text) for name, text in zip(statements[::2], statements[1::2], strict=True))
        return Exchanged(
            leased=_numbers(granted),
            downloaded=_numbers(downloaded),
            begun=_numbers(begun),
            leases=leases,
            was_known=bool(was_known),
            hosts=frozenset(name for name in names.split(",") if name),
            statements=dict(each for each in found if each),
        )

    def digests(self, manifest: Manifest, site: Site, pieces: Sequence[int]) -> dict[int, Found]:
        """Of those whose digest a host has published."""
        if not pieces:
            return {}
        texts = self._redis.hmget(f"{keys.pieces}{_id(manifest, site)}", [str(piece) for piece in pieces])
        read = {
            piece: readable("digest of a piece", manifest.model, _found, text)
            for piece, text in zip(pieces, texts, strict=True)
            if text
        }
        return {piece: found for piece, found in read.items() if found}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _id(manifest: Manifest, site: Site) -> str:
    return f"{manifest.digest}@{site}"


def _statement(name: str, text: str) -> tuple[HostName, Statement] | None:
    return readable("statement of host", name, lambda: (HostName(name), Statement.model_validate_json(text)))


def _found(text: str) -> Found:
    digest, publisher = text.split(" ")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError("it is no SHA-256")
    return Found(digest, HostName(publisher))
