"""Why hosts do not do, in words that a person can read however many hosts there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from aima_core.domain.ids import HostName
from aima_core.scheduling.feasibility import Obstacle, permanent

MOST_NAMED = 5
"""Hosts told by name; of the others, how many there are of each obstacle."""

Against = Mapping[HostName, Sequence[Obstacle]]
_OF_SEVERAL = {"is": "are", "has": "have", "does": "do", "runs": "run"}


def explain(against: Against) -> str:
    """`spark-01 has 20 GB of 92 GB memory to spare; spark-02 and spark-03 are drained; and 195 more (drained: 195)`.

    Those that are nearest to doing come first.
    """
    refused = sorted((host for host in against if against[host]), key=lambda host: _distance(against[host]))
    named, others = refused[:MOST_NAMED], refused[MOST_NAMED:]
    if len(refused) == MOST_NAMED + 1:
        named, others = refused, []
    groups = groupby(named, key=lambda host: [reason.sentence for reason in against[host]])
    told = [_told(list(hosts), sentences) for sentences, hosts in groups]
    if others:
        told.append(_counted([against[host] for host in others]))
    return "; ".join(told)


def join_with_and(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _distance(reasons: Sequence[Obstacle]) -> tuple[int, int, list[str]]:
    return len(permanent(reasons)), len(reasons), [reason.sentence for reason in reasons]


def _told(names: Sequence[str], sentences: Sequence[str]) -> str:
    said = sentences if len(names) == 1 else [_of_several(sentence) for sentence in sentences]
    return f"{join_with_and(names)} {join_with_and(said)}"


def _of_several(sentence: str) -> str:
    verb, _, rest = sentence.partition(" ")
    return f"{_OF_SEVERAL.get(verb, verb)} {rest}"


def _counted(others: Sequence[Sequence[Obstacle]]) -> str:
    counts = Counter(reasons[0].kind.value.replace("_", " ") for reasons in others)
    return f"and {len(others)} more ({', '.join(f'{what}: {count}' for what, count in counts.most_common())})"
