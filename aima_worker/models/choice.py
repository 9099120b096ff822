"""Which piece a host downloads from which other host: rare pieces first, from the host that serves the fewest. Pure.

A set of pieces is a number with bit N set for piece N.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

from aima_core.domain.ids import HostName
from aima_core.store.fetching import UPLOADS

RAREST = 6
"""Pieces with this many copies, or more, are equal."""


class Other(NamedTuple):
    """What another host has and does."""

    pieces: int
    downloads: Mapping[int, HostName]
    """From other hosts."""


class PieceChoice(NamedTuple):
    piece: int
    source: HostName


def choose(
    missing: int,
    others: Mapping[HostName, Other],
    usable: Sequence[HostName],
    *,
    own: Mapping[int, HostName],
    most: int,
    random: Random,
) -> list[PieceChoice]:
    """At most `most` pieces of `missing` with their sources, which are among `usable`.

    `own` are the downloads of this host that have begun. Equally rare pieces are taken in about their order, so that
    hashing keeps up; a random one of the next few, so that hosts which choose at once choose different ones.
    """
    loads = Counter(
        source for each in (own, *(other.downloads for other in others.values())) for source in each.values()
    )
    each = max(1, UPLOADS // max(1, len(others)))
    mine = Counter(own.values())
    free = {host: min(UPLOADS - loads[host], each - mine[host]) for host in usable}
    chosen: list[PieceChoice] = []
    for level in _by_rarity(missing, others, usable):
        window = 2 * (most + len(others))
        while level and len(chosen) < most:
            some = list(_lowest(level, window))
            random.shuffle(some)
            for piece in some[: most - len(chosen)]:
                level &= ~(1 << piece)
                sources = [host for host in usable if free[host] > 0 and others[host].pieces >> piece & 1]
                if sources:
                    source = max(sources, key=lambda host: (free[host], random.random()))
                    free[source] -= 1
                    chosen.append(PieceChoice(piece, source))
            if not any(left > 0 for left in free.values()):
                return chosen
    return chosen


def set_of(numbers: Iterable[int], *, most: int) -> int:
    """Of numbers below `most`, in linear time."""
    bits = bytearray(most // 8 + 1)
    for number in numbers:
        bits[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(bits, "little")


def numbers_in(pieces: int) -> list[int]:
    """In order, in linear time."""
    data = pieces.to_bytes(pieces.bit_length() // 8 + 1, "little")
    return [at * 8 + bit for at, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1]


def _by_rarity(missing: int, others: Mapping[HostName, Other], usable: Sequence[HostName]) -> Iterator[int]:
    """The missing pieces that a usable host has, in sets of equally many copies, running downloads included."""
    at_least = [0] * (RAREST + 1)
    for other in others.values():
        copies = other.pieces | sum(1 << piece for piece in other.downloads)
        for number in range(RAREST, 0, -1):
            at_least[number] |= copies & (at_least[number - 1] if number > 1 else -1)
    available = 0
    for host in usable:
        available |= others[host].pieces
    available &= missing
    for number in range(1, RAREST + 1):
        more = at_least[number + 1] if number < RAREST else 0
        yield available & at_least[number] & ~more


def _lowest(pieces: int, most: int) -> Iterator[int]:
    for _ in range(most):
        if not pieces:
            return
        bit = pieces & -pieces
        yield bit.bit_length() - 1
        pieces ^= bit
