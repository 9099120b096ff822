"""Log follow: every line exactly once, from one reader on the host, across restarts of worker, container and Redis."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta

import pytest
from api.node import Node, api_node
from contract.bench import JUNK_BYTES
from lab.leaks import Holdings
from lab.parts import eventually
from lab.redis_server import RedisServer
from logs.desk import CountingRuntime, Desk, a_desk, following, log_streams, say, until_kept

from aima_api.http.sse import HEARTBEAT_FRAME
from aima_api.logs import stream
from aima_core.domain.services import InstanceState
from aima_core.redis import keys
from aima_core.redis.connection import RedisClient
from aima_worker.runtimes.fake.engine import Behaviour


def test_a_follower_receives_past_and_new_lines(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "one", "two")

    with following(node) as reader:
        reader.until_line("two")
        say(desk, "three", "four")
        lines = reader.until_line("four")

    assert lines == ["one", "two", "three", "four"]


def test_history_and_new_lines_join_without_gap_or_duplicate(desk: Desk, node: Node, runtime: CountingRuntime) -> None:
    runtime.next_runs(Behaviour(counts=timedelta(milliseconds=2)))
    desk.run()

    for _ in range(4):
        with following(node) as reader:
            numbers = [int(line.split()[1]) for line in reader.until_lines(400)]

        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_stdout_and_stderr_are_distinguished(desk: Desk, node: Node, runtime: CountingRuntime) -> None:
    runtime.next_runs(Behaviour(stdout=b"fine\n", stderr=b"alas\n"))
    desk.run()

    with following(node) as reader:
        reader.until_lines(2)

    assert {(each["stream"], each["text"]) for each in reader.data} == {("stdout", "fine"), ("stderr", "alas")}
    assert {each["host"] for each in reader.data} == {"alpha"}


def test_a_silent_log_sends_heartbeats(desk: Desk, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHECK_INTERVAL", timedelta(milliseconds=100))
    monkeypatch.setattr(stream, "HEARTBEAT_INTERVAL", timedelta(milliseconds=300))
    desk.run()

    path = f"/v1/services/{desk.instance.service}/logs?follow=true"
    with node.client.stream("GET", path, timeout=5) as response:
        received = next(chunk for chunk in response.iter_raw() if chunk)

    assert received == HEARTBEAT_FRAME


def test_many_readers_on_several_nodes_share_one_reader_on_the_host(
    desk: Desk, redis_url: str, runtime: CountingRuntime
) -> None:
    desk.run()

    with ExitStack() as stack_of_all:
        nodes = [stack_of_all.enter_context(api_node(redis_url)) for _ in range(2)]
        readers = [stack_of_all.enter_context(following(node)) for node in nodes for _ in range(10)]
        say(desk, "said once")
        received = [reader.until_line("said once") for reader in readers]

    assert received == [["said once"]] * 20
    assert runtime.follows == 1


def test_a_follow_ends_with_a_note_when_the_service_is_stopped(desk: Desk, node: Node) -> None:
    desk.run()

    with following(node) as reader:
        say(desk, "hello")
        reader.until_line("hello")
        say(desk, "last words")
        desk.stop()
        lines = reader.until_end()

    assert lines == ["hello", "last words"]
    assert reader.notes[-1] == f"{desk.instance} is stopped."


def test_a_follow_continues_across_a_restart_of_the_container(desk: Desk, node: Node, runtime: CountingRuntime) -> None:
    desk.run()

    with following(node) as reader:
        say(desk, "first life")
        reader.until_line("first life")
        runtime.end(desk.container, exit_code=1, last_words="alas")
        reader.until_note("has ended")
        desk.run()
        say(desk, "second life")
        lines = reader.until_line("second life")

    assert lines == ["first life", "alas", "second life"]


def test_a_follow_requested_before_the_container_exists_waits_for_it(desk: Desk, node: Node) -> None:
    desk.run()
    desk.remove_container()

    with following(node) as reader:
        reader.until_note("There is no container")
        desk.run()
        say(desk, "here I am")
        lines = reader.until_line("here I am")

    assert lines == ["here I am"]


def test_a_follow_survives_a_worker_restart_without_losing_lines(desk: Desk, node: Node) -> None:
    desk.run()

    with following(node) as reader:
        say(desk, "before")
        reader.until_line("before")
        desk.leave()
        say(desk, "meanwhile")
        reader.until_note("is away")
        desk.join()
        reader.until_note("is back")  # the next follow request may come before the next look at the host
        say(desk, "after")
        lines = reader.until_line("after")

    assert lines == ["before", "meanwhile", "after"]
    assert "alpha is back." in reader.notes


def test_a_follow_after_a_worker_restart_joins_a_history_longer_than_the_buffer(
    desk: Desk, node: Node, runtime: CountingRuntime
) -> None:
    runtime.next_runs(Behaviour(stderr=b"alas\n"))
    desk.run()
    say(desk, "\n".join(f"line {number}" for number in range(1, 301)))
    desk.leave()
    desk.join()

    with following(node, tail=301) as reader:
        reader.until_line("line 300")
        say(desk, "after")
        lines = reader.until_line("after")

    assert lines == ["alas", *(f"line {number}" for number in range(1, 301)), "after"]


def test_a_follow_survives_a_redis_restart_without_losing_lines(
    own_redis: RedisServer, runtime: CountingRuntime
) -> None:
    with a_desk(own_redis.url, runtime) as desk, api_node(own_redis.url) as node:
        desk.run()
        with following(node) as reader:
            say(desk, "before")
            reader.until_line("before")
            own_redis.kill()
            say(desk, "meanwhile")
            own_redis.start()
            desk.is_ready_again()
            say(desk, "after")
            lines = reader.until_line("after")

        assert lines == ["before", "meanwhile", "after"]


def test_a_follow_survives_the_loss_and_restoration_of_the_record(desk: Desk, node: Node, redis: RedisClient) -> None:
    log_streams(node, linger=timedelta(0))
    desk.run()

    with following(node) as reader:
        say(desk, "before")
        reader.until_line("before")
        redis.delete(keys.instance(desk.instance))
        desk.leave()
        reader.until_note("is away")  # the same poll finds no record
        desk.is_now(InstanceState.READY)
        desk.join()
        say(desk, "after")
        lines = reader.until_line("after")

    assert lines == ["before", "after"]


def test_a_follow_ends_once_the_record_stays_lost(desk: Desk, node: Node, redis: RedisClient) -> None:
    log_streams(node, record_grace=timedelta(0))
    desk.run()

    with following(node) as reader:
        redis.delete(keys.instance(desk.instance))
        reader.until_end()

    assert reader.notes[-1] == f"{desk.instance.service} is no longer on alpha."


def test_of_a_log_flood_the_newest_lines_arrive_with_the_number_of_skipped_ones(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "calm")
    until_kept(desk, "calm")

    with following(node) as reader:
        reader.until_line("calm")
        say(desk, "\n".join(f"flood {number}" for number in range(1, 20_001)))
        reader.until_line("flood 20000")

    reported = [note for note in reader.notes if "too fast" in note]
    counted = [int(note.split()[0]) for note in reported if note[0].isdigit()]  # others name the seconds left out
    unreported = 20_000 - (len(reader.lines) - 1) - sum(counted)
    assert reported
    assert unreported == 0 if len(counted) == len(reported) else unreported > 0


def test_invalid_bytes_of_an_engine_reach_readers_as_printable_lines(
    desk: Desk, node: Node, runtime: CountingRuntime
) -> None:
    runtime.next_runs(Behaviour(stdout=JUNK_BYTES))
    desk.run()

    with following(node) as reader:
        lines = reader.until_line("end")

    assert lines[0] == "red"
    assert all(character == "\t" or character.isprintable() for line in lines for character in line)
    assert max(map(len, lines)) <= 16 * 1024


def test_a_hundred_followers_leak_no_file_descriptor(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "hello")
    until_kept(desk, "hello")
    _look_in(node, times=20)  # fills the connection pools
    before = len(Holdings.now().descriptors)

    _look_in(node, times=20)

    assert eventually(lambda: not node.server.logs.followed)
    assert eventually(lambda: len(Holdings.now().descriptors) <= before + 2)


def _look_in(node: Node, *, times: int) -> None:
    """Opens that many followers, five at a time."""
    for _ in range(times):
        with ExitStack() as stack_of_all:
            for reader in [stack_of_all.enter_context(following(node)) for _ in range(5)]:
                reader.until_line("hello")
