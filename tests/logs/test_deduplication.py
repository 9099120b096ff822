"""`LineDeduplicator`: lines read twice after a reconnect are returned once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from aima_core.logs.dedup import INTERLEAVING, LineDeduplicator, StreamName

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Said:
    at: datetime
    stream: StreamName
    text: str


def _line(seconds: float, text: str, stream: StreamName = "stdout") -> Said:
    return Said(BEGINNING + timedelta(seconds=seconds), stream, text)


@st.composite
def logs(draw: st.DrawFn) -> list[Said]:
    """Two streams, each in the order of time with many equal timestamps, interleaved at random."""
    names: tuple[StreamName, ...] = ("stdout", "stderr")
    streams = {
        stream: [_line(0.1 * at, f"{stream} {n}", stream) for n, at in enumerate(sorted(draw(_TIMES)))]
        for stream in names
    }
    mixed = []
    while any(streams.values()):
        stream = draw(st.sampled_from([name for name, left in streams.items() if left]))
        mixed.append(streams[stream].pop(0))
    return mixed


_TIMES = st.lists(st.integers(0, 5), max_size=12)


@given(logs(), st.data())
def test_lines_read_again_after_a_reconnect_are_returned_once(lines: list[Said], data: st.DataObject) -> None:
    broke = data.draw(st.integers(0, len(lines)))
    begins = data.draw(st.integers(0, broke))
    # The second read begins before the first line of a timestamp.
    again = [line for line in lines[begins:] if not _is_cut(line, lines[:begins])]
    seen = LineDeduplicator()

    reported = [line for line in lines[:broke] if seen.is_new(line.stream, line.at)]
    seen.rewind()
    reported += [line for line in again if seen.is_new(line.stream, line.at)]

    assert reported[:broke] == lines[:broke]
    assert sorted(map(repr, reported)) == sorted(map(repr, {*lines[:broke], *again}))


def _is_cut(line: Said, before: list[Said]) -> bool:
    return any(each.at == line.at and each.stream == line.stream for each in before)


def test_equal_lines_with_the_same_timestamp_are_counted() -> None:
    seen = LineDeduplicator()
    twice = [_line(1, "same"), _line(1, "same")]
    assert [line for line in twice if seen.is_new(line.stream, line.at)] == twice

    seen.rewind()

    again = [*twice, _line(1, "same"), _line(1, "other")]
    assert [line for line in again if seen.is_new(line.stream, line.at)] == again[2:]


def test_no_unread_line_is_dropped_even_if_the_clock_goes_back() -> None:
    seen = LineDeduplicator()
    lines = [_line(10, "late"), _line(5, "early")]

    assert [line for line in lines if seen.is_new(line.stream, line.at)] == lines


def test_a_reconnect_reads_from_shortly_before_the_newest_line() -> None:
    seen = LineDeduplicator()
    assert seen.since is None

    seen.is_new("stderr", _line(1, "old").at)
    seen.is_new("stdout", _line(9, "young").at)

    assert seen.since == BEGINNING + timedelta(seconds=9) - INTERLEAVING
