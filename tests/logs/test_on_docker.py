"""Logs of a real container, through a real Redis and a real API node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest
from api.node import Node
from lab.images import busybox_image
from lab.parts import eventually
from logs.desk import Desk, a_desk, following, said, until_kept

from aima_worker.runtime import Status
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = pytest.mark.docker

FLOOD = "i=0; while :; do i=$((i+1)); echo line $i; done"


@pytest.fixture
def desk(redis_url: str, installation: str) -> Iterator[Desk]:
    with (
        closing(DockerSdkRuntime(host="alpha")) as engine,
        a_desk(redis_url, engine, installation=installation) as desk,
    ):
        yield desk
        desk.remove_container()


def test_stdout_and_stderr_are_distinguished(desk: Desk, node: Node) -> None:
    desk.run_image(busybox_image(), "echo fine; echo alas >&2; exec sleep 1000")

    with following(node) as reader:
        reader.until_lines(2)

    assert {(each["stream"], each["text"]) for each in reader.data} == {("stdout", "fine"), ("stderr", "alas")}


def test_history_and_new_lines_join_without_gap_or_duplicate(desk: Desk, node: Node) -> None:
    desk.run_image(busybox_image(), "i=0; while :; do i=$((i+1)); echo count $i; usleep 2000; done")

    for _ in range(3):
        with following(node) as reader:
            numbers = [int(line.split()[1]) for line in reader.until_lines(300)]

        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_of_a_log_flood_the_newest_lines_arrive_with_the_number_of_skipped_ones(desk: Desk, node: Node) -> None:
    desk.run_image(busybox_image(), FLOOD)

    with following(node) as reader:
        reader.until_note("too fast")
        numbers = [int(line.split()[1]) for line in reader.lines]
        reader.until_lines(len(numbers) + 100)

    assert numbers == sorted(set(numbers))


def test_the_last_lines_can_be_read_after_the_container_was_removed(desk: Desk, node: Node) -> None:
    desk.run_image(busybox_image(), "echo hello; trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done")
    until_kept(desk, "hello")
    desk.stop(grace=timedelta(seconds=5))
    until_kept(desk, "bye")

    lines, notes = said(node)

    assert lines == ["hello", "bye"]
    assert "no container" in notes[0]


def test_a_follow_continues_when_the_same_container_is_restarted(desk: Desk, node: Node) -> None:
    desk.run_image(busybox_image(), "echo life; read line")
    assert eventually(lambda: _has_ended(desk), within=timedelta(seconds=60))

    with following(node) as reader:
        reader.until_note("has ended")
        desk.run_image(busybox_image(), "echo another life; exec sleep 1000")
        lines = reader.until_line("another life")

    assert lines == ["life", "another life"]


def _has_ended(desk: Desk) -> bool:
    container = desk.host.runtime.find(desk.container)
    return container is not None and container.status is Status.EXITED
