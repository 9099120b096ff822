"""The last lines are stored in Redis and stay readable without the container and without the host."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from api.node import Node
from lab.parts import eventually
from logs.desk import CountingRuntime, Desk, following, said, say, until_kept

from aima_api.logs import history
from aima_core.domain.services import InstanceState
from aima_core.errors import Failure
from aima_core.redis import keys


def test_the_last_lines_can_be_read_after_the_container_was_removed(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "\n".join(f"line {number}" for number in range(1, 151)))
    until_kept(desk, "line 150")
    desk.stop()

    lines, notes = said(node)

    assert lines == [f"line {number}" for number in range(51, 151)]
    assert "no container" in notes[0]
    assert "stored at" in notes[0]


def test_the_stored_lines_include_the_output_right_before_the_exit(
    desk: Desk, node: Node, runtime: CountingRuntime
) -> None:
    desk.run()
    say(desk, "hello")
    until_kept(desk, "hello")
    runtime.end(desk.container, exit_code=1, last_words="CUDA out of memory")
    desk.stop()

    until_kept(desk, "CUDA out of memory")

    assert said(node)[0] == ["hello", "CUDA out of memory"]


def test_the_last_lines_can_be_read_while_the_host_is_offline(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "one", "two", "three")
    until_kept(desk, "three")
    desk.leave()

    lines, notes = said(node, tail=2)

    assert lines == ["two", "three"]
    assert "alpha is away" in notes[0]


def test_a_worker_that_shuts_down_stores_the_lines_it_read_last(
    desk: Desk, node: Node, runtime: CountingRuntime
) -> None:
    desk.run()
    say(desk, "hello")
    until_kept(desk, "hello")
    say(desk, "the end")
    assert eventually(lambda: runtime.lines_followed == 2)
    desk.leave()

    assert said(node)[0] == ["hello", "the end"]


def test_a_host_that_does_not_answer_is_waited_for_at_most_five_seconds(
    desk: Desk, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timedelta(seconds=4) >= history.ANSWER_TIMEOUT
    monkeypatch.setattr(history, "ANSWER_TIMEOUT", timedelta(seconds=1))  # the rest is for a busy machine
    desk.run()
    say(desk, "hello")
    until_kept(desk, "hello")
    desk.fall_silent()
    asked_at = time.monotonic()

    lines, notes = said(node)

    assert time.monotonic() - asked_at < 5
    assert lines == ["hello"]
    assert "alpha does not answer" in notes[0]


def test_the_log_of_a_failed_start_is_the_tail_stored_with_its_failure(desk: Desk, node: Node) -> None:
    failure = Failure(code="container_exited", message="It ended.", hint="See why.", log_tail=("CUDA out of memory",))
    desk.is_now(InstanceState.FAILED, failure=failure)

    lines, notes = said(node)

    assert lines == ["CUDA out of memory"]
    assert "before it failed" in notes[0]


def test_a_follow_of_a_failed_instance_shows_its_last_lines_and_ends(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "alas")
    until_kept(desk, "alas")
    desk.remove_container()
    desk.is_now(InstanceState.FAILED)

    with following(node) as reader:
        lines = reader.until_end()

    assert lines == ["alas"]
    assert reader.notes[-1] == f"{desk.instance} has failed."


def test_long_lines_are_truncated_when_stored(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, *["x" * 16_000] * 100, "short")
    until_kept(desk, "short")

    kept = desk.redis.get(keys.last_lines(desk.instance))

    assert kept is not None
    assert len(kept) < 300_000


def test_every_key_written_for_readers_expires(desk: Desk, node: Node) -> None:
    desk.run()
    with following(node) as reader:
        say(desk, "hello")
        reader.until_line("hello")
    until_kept(desk, "hello")

    def for_readers() -> list[str]:
        return [key for word in ("answer", "lines", "last-lines", "asked") for key in _keys(desk, f"aima:{word}:*")]

    assert eventually(lambda: len(for_readers()) >= 3)
    assert [key for key in for_readers() if desk.redis.ttl(key) == -1] == []  # type: ignore[attr-defined]  # tests only


def _keys(desk: Desk, pattern: str) -> list[str]:
    found: list[str] = desk.redis.keys(pattern)  # type: ignore[attr-defined]  # tests only
    return found
