"""The line splitter turns an engine's bytes into sanitized lines of bounded length."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aima_core.logs.sanitize import sanitized_line
from aima_worker.runtimes.line_splitter import LINE_LIMIT, LineSplitter


def lines_of(*pieces: bytes) -> list[str]:
    splitter = LineSplitter()
    return [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.end())


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"loading\tweights", "loading\tweights"),
        ("größer".encode(), "größer"),
        (b"\x1b[1;31merror\x1b[0m", "error"),
        (b"\x1b[2J\x1b[Hcleared", "cleared"),
        (b"\x1b]0;a new title\x07text", "text"),
        (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1b]52;c;Y3VybCBldmls\x07", ""),
        ("\x9b31mred".encode(), "red"),
        (b"bell\a, nul\x00, backspace\b", "bell, nul, backspace"),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"windows\r", "windows"),
        (b" 10%\r 55%\r100%", "100%"),
        ("abc\u202ecba".encode(), "abccba"),
        ("one\u2028line".encode(), "oneline"),
    ],
)
def test_a_line_is_rendered_as_on_a_terminal_without_control_sequences(raw: bytes, shown: str) -> None:
    assert sanitized_line(raw) == shown


def test_lines_are_split_correctly_at_any_chunk_boundary() -> None:
    whole = b"one\ntwo\n\nfour"

    for cut in range(len(whole)):
        assert lines_of(whole[:cut], whole[cut:]) == ["one", "two", "", "four"]


def test_a_character_split_across_chunks_stays_whole() -> None:
    assert lines_of(b"gr\xc3", b"\xb6\xc3\x9fer\n") == ["größer"]


def test_an_unfinished_line_is_returned_at_the_end_only() -> None:
    splitter = LineSplitter()

    during = list(splitter.feed(b"half"))
    after = list(splitter.end())

    assert (during, after) == ([], ["half"])
    assert list(splitter.end()) == []


def test_a_line_that_is_too_long_is_split_without_loss() -> None:
    lines = lines_of(b"x" * 50_000 + b"\nshort\n")

    assert "".join(lines[:-1]) == "x" * 50_000
    assert max(map(len, lines)) == LINE_LIMIT
    assert lines[-1] == "short"


def test_an_endless_line_does_not_accumulate_in_memory() -> None:
    splitter = LineSplitter()

    lines = [line for _ in range(100) for line in splitter.feed(b"x" * 1000)]

    assert len("".join(lines)) >= 100_000 - LINE_LIMIT


def test_the_pieces_of_a_long_line_do_not_split_characters() -> None:
    lines = lines_of("ß".encode() * 20_000)

    assert "".join(lines) == "ß" * 20_000


@given(some.binary(max_size=500), some.integers(0, 500))
def test_any_input_gives_lines_without_control_characters(junk: bytes, cut: int) -> None:
    lines = lines_of(junk[:cut], junk[cut:])

    assert not [char for line in lines for char in line if unicodedata.category(char) == "Cc" and char != "\t"]
    assert all(line.encode() for line in lines if line)


@given(some.integers(LINE_LIMIT - 10, 3 * LINE_LIMIT), some.sampled_from([b"\xff", b"\xc3", b"\xf0\x9f", b"a\xe2\x82"]))
def test_no_line_exceeds_the_limit_for_any_invalid_bytes(length: int, junk: bytes) -> None:
    lines = lines_of(junk * length)

    assert max(len(line.encode()) for line in lines) <= LINE_LIMIT
