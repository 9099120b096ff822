"""Heartbeat: a worker joins under its name, and persists what Redis may lose while it restarts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from lab.parts import eventually

from aima_core.domain.ids import HostName
from aima_core.errors import BrokerUnavailable, HostNameTaken, IdentityTaken
from aima_core.queue.transport import DroppedMessages
from aima_core.redis import keys
from aima_worker.node.facts import host_facts
from aima_worker.node.heartbeat import Heartbeat, RedisState

pytestmark = pytest.mark.redis

ALPHA = HostName("alpha")


@pytest.fixture
def hosts(desk):
    return desk.host.hosts


@pytest.fixture
def beat_of(desk):
    """A worker's heartbeat, sent by hand; its callbacks append to the list."""

    def make(heard, *, name=ALPHA, identity="one", session="here", dropped=None, **more):
        facts = host_facts(desk.host.settings, desk.host.runtime).model_copy(update={"name": name})
        return Heartbeat(
            replace(desk.host, name=name),
            lambda: facts,
            identity=identity,
            session=session,
            dropped=dropped or DroppedMessages(),
            redis_is_new=lambda: heard.append("new"),
            displaced=heard.append,
            **more,
        )

    return make


def joined(beat):
    beat._join()
    beat.send()
    return beat


def test_another_worker_of_that_name_is_refused_while_the_first_lives(redis, beat_of):
    joined(beat_of([]))

    with pytest.raises(HostNameTaken):
        beat_of([], identity="two").start()
    redis.zadd(keys.HOSTS_SEEN, {ALPHA: 1})

    joined(beat_of([], identity="two"))


def test_a_copied_identity_is_refused_while_the_first_lives_under_whatever_name(beat_of):
    joined(beat_of([]))

    with pytest.raises(HostNameTaken):
        beat_of([], session="elsewhere").start()
    with pytest.raises(IdentityTaken):
        beat_of([], session="elsewhere", name=HostName("beta")).start()


def test_the_same_worker_takes_its_name_again_at_once(hosts, beat_of):
    joined(beat_of([]))

    joined(beat_of([]))

    assert hosts.get(ALPHA).live


def test_a_worker_whose_name_another_has_taken_meanwhile_is_told(redis, beat_of):
    first = joined(beat_of([]))
    redis.zadd(keys.HOSTS_SEEN, {ALPHA: 1})
    joined(beat_of([], identity="two"))

    with pytest.raises(HostNameTaken):
        first.send()


def test_a_redis_that_has_lost_its_data_is_noticed_and_the_host_is_known_again(hosts, redis, beat_of):
    heard = []
    beat = joined(beat_of(heard))
    redis.delete(keys.EPOCH, keys.HOSTS, keys.HOSTS_SEEN, keys.HOSTS_SESSIONS)

    beat.send()

    assert heard == ["new"]
    assert hosts.get(ALPHA).live


def test_a_drained_host_is_drained_again_when_redis_forgets_it_while_the_worker_is_off(hosts, redis, beat_of):
    beat = joined(beat_of([]))
    hosts.drain(ALPHA)
    beat.send()
    redis.delete(keys.EPOCH, keys.DRAINED)

    joined(beat_of([]))

    assert hosts.get(ALPHA).drained


def test_a_host_that_was_resumed_while_its_worker_was_off_stays_resumed(hosts, beat_of):
    beat = joined(beat_of([]))
    hosts.drain(ALPHA)
    beat.send()
    hosts.resume(ALPHA)

    joined(beat_of([]))

    assert not hosts.get(ALPHA).drained


def test_what_cannot_be_read_is_not_remembered(tmp_path):
    (tmp_path / "redis.epoch").write_text("")

    assert RedisState.load(tmp_path / "redis.epoch") == RedisState()


def test_what_made_no_sense_is_told_once_with_the_next_beat(hosts, beat_of):
    dropped = DroppedMessages()
    beat = joined(beat_of([], dropped=dropped))
    for _ in range(3):
        dropped.add()

    beat.send()
    beat.send()

    assert hosts.get(ALPHA).messages_dropped == 3


def test_what_could_not_be_told_while_redis_was_away_is_told_afterwards():
    dropped, told = DroppedMessages(), []
    dropped.add()
    with pytest.raises(BrokerUnavailable):
        dropped.flush(_away)
    dropped.add()

    dropped.flush(told.append)
    dropped.flush(told.append)

    assert told == [2]


def _away(_: int) -> None:
    raise BrokerUnavailable(detail="it is away")


def test_after_a_heartbeat_that_failed_by_a_bug_the_next_one_is_sent(beat_of, hosts, monkeypatch):
    beat = beat_of([], interval=timedelta(milliseconds=20))
    sent, errors, heartbeat = [], [ZeroDivisionError("a bug"), BrokerUnavailable(detail="frozen")], hosts.heartbeat

    def failing(*arguments, **options):
        if errors:
            raise errors.pop(0)
        sent.append(heartbeat(*arguments, **options))
        return sent[-1]

    monkeypatch.setattr(hosts, "heartbeat", failing)
    beat.start()

    assert eventually(lambda: len(sent) > 1)
    beat.stop()
