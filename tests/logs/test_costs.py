"""Cost of a log on its host: without followers, with slow readers, and after a worker restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from lab.parts import eventually
from logs.desk import SERVICE, CountingRuntime, Desk, a_desk, say, until_kept

from aima_api.logs.channel import LogChannelClient
from aima_api.logs.fanout import QUEUED_BATCHES, EncodedBatch, LogSubscription
from aima_api.logs.history import LogExcerpt, LogHistory
from aima_api.logs.stream import InstanceFollower
from aima_core.domain.ids import HostName
from aima_core.logs.protocol import LogBatch, LogCursor, LogLine, LogRequest
from aima_core.redis import keys
from aima_core.redis.connection import following_link
from aima_core.store.hosts import HostStore
from aima_worker.logs.collector import FOLLOW_TTL
from aima_worker.runtimes.fake.engine import Behaviour

NOBODY = HostName("nobody")


class Clock:
    """The monotonic clock, which a test sets forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def passes(self, duration: timedelta) -> None:
        self._ahead += duration.total_seconds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(redis_url: str, runtime: CountingRuntime, clock: Clock) -> Iterator[Desk]:
    with a_desk(redis_url, runtime, clock=clock) as desk:
        yield desk


def test_no_lines_are_published_without_a_follow_request(desk: Desk) -> None:
    desk.run()
    say(desk, "hello")
    until_kept(desk, "hello")

    assert _published(desk) == []


def test_publishing_ends_a_while_after_the_last_follow_request(desk: Desk, clock: Clock) -> None:
    desk.run()
    _ask(desk)
    assert eventually(lambda: len(_published(desk)) == 1)
    say(desk, "heard")
    assert eventually(lambda: len(_published(desk)) == 2)

    clock.passes(FOLLOW_TTL)
    before = len(_published(desk))
    say(desk, "not heard")
    until_kept(desk, "not heard")

    assert len(_published(desk)) == before


def test_a_repeated_follow_request_shows_the_unpublished_lines_as_a_gap_in_the_numbers(
    desk: Desk, clock: Clock
) -> None:
    desk.run()
    _ask(desk)
    assert eventually(lambda: len(_published(desk)) == 1)
    clock.passes(FOLLOW_TTL)
    say(desk, "one", "two")
    until_kept(desk, "two")

    _ask(desk)

    assert eventually(lambda: _published(desk)[-1].first == _published(desk)[0].next + 2)


def test_a_log_flood_without_followers_is_only_sampled(desk: Desk, runtime: CountingRuntime) -> None:
    runtime.next_runs(Behaviour(counts=timedelta(microseconds=100)))
    desk.run()

    assert eventually(lambda: runtime.follows >= 3, within=timedelta(seconds=60))
    read = runtime.lines_followed

    said = len(list(runtime.logs(desk.container, follow=False)))
    assert read < said / 2


def test_a_malformed_request_is_dropped_and_the_next_one_is_answered(desk: Desk) -> None:
    desk.run()
    for nonsense in ("", "{}", "[]", '{"instance": "svc-tiny-dial@alpha", "answer": "aima:operations"}'):
        desk.redis.rpush(keys.asked(desk.host.name), nonsense)

    _ask(desk)

    assert eventually(lambda: len(_published(desk)) == 1)


def test_a_slow_reader_is_notified_of_the_number_of_missed_lines(desk: Desk) -> None:
    frames = asyncio.run(_read_late(desk))

    reported = [frame for frame in frames if "event: note" in frame]
    assert any("20 lines were missed" in frame for frame in reported), reported
    assert f'"line {QUEUED_BATCHES + 20}"' in frames[-1]


async def _read_late(desk: Desk) -> list[str]:
    """The frames of a follower whose queue overflowed."""
    channel = LogChannelClient(following_link(desk.url))
    history = LogHistory(channel, desk.host.services, HostStore(desk.redis))
    follower = InstanceFollower(SERVICE.on(NOBODY), history)
    subscription = LogSubscription(capacity=QUEUED_BATCHES)
    subscription.deliver(_heard(0))
    frames = []
    async for frame in follower.frames(LogRequest(instance=SERVICE.on(NOBODY)), subscription):
        frames.append(frame.decode())
        if '"line 0"' in frames[-1]:
            for number in range(1, QUEUED_BATCHES + 21):
                subscription.deliver(_heard(number))
        if f'"line {QUEUED_BATCHES + 20}"' in frames[-1]:
            subscription.close()
    await channel.close()
    return frames


def _heard(number: int) -> EncodedBatch:
    line = LogLine(at=datetime.now(UTC), stream="stdout", text=f"line {number}")
    return EncodedBatch(NOBODY, LogBatch(run="run", first=number, lines=(line,)))


def _ask(desk: Desk) -> None:
    desk.redis.rpush(keys.asked(desk.host.name), LogRequest(instance=desk.instance, follow=True).model_dump_json())


def _published(desk: Desk) -> list[LogBatch]:
    return [LogBatch.model_validate_json(fields["json"]) for _, fields in desk.redis.xrange(keys.lines(desk.instance))]


def test_batches_of_a_previous_worker_run_cause_at_most_two_history_reads() -> None:
    history = Restarted()

    frames = asyncio.run(_frames_after_a_restart(history))

    assert history.reads <= 2
    assert frames.count(b"event: line") == 1


class Restarted(LogHistory):
    """The history of a host whose worker was restarted."""

    def __init__(self) -> None:
        self.reads = 0

    async def read(self, request: LogRequest) -> LogExcerpt:
        self.reads += request.follow
        return LogExcerpt((), (), LogCursor(run="new"))


async def _frames_after_a_restart(history: LogHistory) -> bytes:
    follower = InstanceFollower(SERVICE.on(NOBODY), history)
    subscription = LogSubscription(capacity=QUEUED_BATCHES)
    line = LogLine(at=datetime.now(UTC), stream="stdout", text="a line")
    for run in ("old", "old", "old", "new"):
        subscription.deliver(EncodedBatch(NOBODY, LogBatch(run=run, first=0, lines=(line,))))
    frames = b""
    async for frame in follower.frames(LogRequest(instance=SERVICE.on(NOBODY)), subscription):
        frames += frame
        if b"event: line" in frames:
            subscription.close()
            break
    return frames
