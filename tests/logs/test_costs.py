"""What a log costs the host while nobody reads it, or somebody reads too slowly."""

from __future__ import annotations

import asyncio
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
from aima_worker.runtimes.fake.engine import Behaviour

NOBODY = HostName("nobody")


@pytest.fixture
def desk(redis_url: str, runtime: CountingRuntime) -> Iterator[Desk]:
    with a_desk(redis_url, runtime, follow_ttl=timedelta(seconds=1)) as desk:
        yield desk


def test_nothing_is_published_unless_somebody_asks(desk: Desk) -> None:
    desk.run()
    say(desk, "hello")
    until_kept(desk, "hello")

    assert _published(desk) == []


def test_a_reader_that_is_gone_costs_nothing_after_a_while(desk: Desk) -> None:
    desk.run()
    _ask(desk)
    assert eventually(lambda: len(_published(desk)) == 1)
    say(desk, "heard")
    assert eventually(lambda: len(_published(desk)) == 2)

    assert eventually(lambda: not _asked_within(desk, timedelta(seconds=1)))
    before = len(_published(desk))
    say(desk, "not heard")
    until_kept(desk, "not heard")

    assert len(_published(desk)) == before


def test_whoever_asks_again_sees_by_the_count_what_was_not_published(desk: Desk) -> None:
    desk.run()
    _ask(desk)
    assert eventually(lambda: len(_published(desk)) == 1)
    assert eventually(lambda: not _asked_within(desk, timedelta(seconds=1)))
    say(desk, "one", "two")
    until_kept(desk, "two")

    _ask(desk)

    assert eventually(lambda: _published(desk)[-1].first == _published(desk)[0].next + 2)


def test_a_flood_that_nobody_follows_is_looked_at_now_and_then(desk: Desk, runtime: CountingRuntime) -> None:
    runtime.next_runs(Behaviour(counts=timedelta(microseconds=100)))
    desk.run()

    assert eventually(lambda: runtime.follows >= 3)
    read = runtime.lines_followed

    said = len(list(runtime.logs(desk.container, follow=False)))
    assert read < said / 2


def test_a_question_that_is_none_is_dropped_and_the_next_is_answered(desk: Desk) -> None:
    desk.run()
    for nonsense in ("", "{}", "[]", '{"instance": "svc-tiny-dial@alpha", "answer": "aima:operations"}'):
        desk.redis.rpush(keys.asked(desk.host.name), nonsense)

    _ask(desk)

    assert eventually(lambda: len(_published(desk)) == 1)


def test_a_reader_too_slow_is_told_how_many_lines_it_missed(desk: Desk) -> None:
    frames = asyncio.run(_read_late(desk))

    told = [frame for frame in frames if "event: note" in frame]
    assert any("20 lines were missed" in frame for frame in told), told
    assert f'"line {QUEUED_BATCHES + 20}"' in frames[-1]


async def _read_late(desk: Desk) -> list[str]:
    """What a follower gets that was away while more was said than is kept for it."""
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


def _asked_within(desk: Desk, time: timedelta) -> bool:
    """Whether the last batch is younger than that."""
    newest = desk.redis.xrevrange(keys.lines(desk.instance), count=1)[0][0]
    seconds, micros = desk.redis.time()
    return seconds * 1000 + micros / 1000 - int(newest.partition("-")[0]) < time.total_seconds() * 1000 + 200


def test_what_a_worker_that_is_no_more_published_is_not_bridged_batch_by_batch() -> None:
    history = Restarted()

    frames = asyncio.run(_frames_after_a_restart(history))

    assert history.reads <= 2
    assert frames.count(b"event: line") == 1


class Restarted(LogHistory):
    """The history of a host whose worker has begun a new run."""

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
