"""Following a log: everything once, from one reader on the host, for as long as there is something to be said."""

from __future__ import annotations

from datetime import timedelta

from api.front_door import Node
from logs.desk import CountingRuntime, Desk, following, say

from aima_worker.runtimes.fake_engine import Manners


def test_a_follower_gets_what_was_said_and_what_is_said(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "one", "two")

    with following(node) as reader:
        reader.until_line("two")
        say(desk, "three", "four")
        lines = reader.until_line("four")

    assert lines == ["one", "two", "three", "four"]


def test_history_and_what_follows_join_without_gap_or_repeat(desk: Desk, node: Node, runtime: CountingRuntime) -> None:
    runtime.next_runs(Manners(counts=timedelta(milliseconds=2)))
    desk.run()

    for _ in range(5):
        with following(node) as reader:
            numbers = [int(line.split()[1]) for line in reader.until_lines(400)]

        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
