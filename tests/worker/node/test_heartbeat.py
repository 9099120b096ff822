"""Heartbeat: a worker joins under its name, and persists what Redis may lose while it restarts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from threading import Event, Thread

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
LEAVES_WITHIN = 60


@pytest.fixture
def hosts(desk):
    return desk.host.hosts


@pytest.fixture
def beat_of(desk):
    """A worker's heartbeat, sent by hand; its callbacks append to the list."""

    def make(received, *, name=ALPHA, identity="one", session="here", dropped=None, **more):
        facts = host_facts(desk.host.settings, desk.host.runtime).model_copy(update={"name": name})
        return Heartbeat(
            replace(desk.host, name=name),
            lambda: facts,
            identity=identity,
            session=session,
            dropped=dropped or DroppedMessages(),
            redis_is_new=lambda: received.append("new"),
            displaced=received.append,
            **more,
        )

    return make


def joined(beat):
    beat._join()
    beat.send()
    return beat


def test_a_second_worker_of_the_same_name_is_refused_while_the_first_lives(redis, beat_of):
    joined(beat_of([]))

    with pytest.raises(HostNameTaken):
        beat_of([], identity="two").start()
    redis.zadd(keys.HOSTS_SEEN, {ALPHA: 1})

    joined(beat_of([], identity="two"))


def test_a_copied_identity_is_refused_under_any_name_while_the_first_lives(beat_of):
    joined(beat_of([]))

    with pytest.raises(HostNameTaken):
        beat_of([], session="elsewhere").start()
    with pytest.raises(IdentityTaken):
        beat_of([], session="elsewhere", name=HostName("beta")).start()


def test_the_same_worker_can_rejoin_under_its_name_at_once(hosts, beat_of):
    joined(beat_of([]))

    joined(beat_of([]))

    assert hosts.get(ALPHA).live


def test_a_worker_whose_name_was_taken_by_another_is_notified(redis, beat_of):
    first = joined(beat_of([]))
    redis.zadd(keys.HOSTS_SEEN, {ALPHA: 1})
    joined(beat_of([], identity="two"))

    with pytest.raises(HostNameTaken):
        first.send()


def test_a_redis_that_lost_its_data_is_detected_and_the_host_registers_again(hosts, redis, beat_of):
    received = []
    beat = joined(beat_of(received))
    redis.delete(keys.EPOCH, keys.HOSTS, keys.HOSTS_SEEN, keys.HOSTS_SESSIONS)

    beat.send()

    assert received == ["new"]
    assert hosts.get(ALPHA).live


def test_facts_that_change_while_they_are_read_are_announced_by_the_next_heartbeat(hosts, beat_of):
    beat = joined(beat_of([]))
    before = beat._facts
    changed = before().model_copy(update={"models": ("Qwen3-32B",)})

    def facts_that_change():
        beat._facts = lambda: changed
        beat.announce_now()
        return before()

    beat._facts = facts_that_change
    beat.announce_now()
    beat.send()
    assert hosts.get(ALPHA).models is None
    beat.send()

    assert hosts.get(ALPHA).models == ("Qwen3-32B",)


def test_a_drained_host_is_drained_again_after_redis_forgot_it_while_the_worker_was_down(hosts, redis, beat_of):
    beat = joined(beat_of([]))
    hosts.drain(ALPHA)
    beat.send()
    redis.delete(keys.EPOCH, keys.DRAINED)

    joined(beat_of([]))

    assert hosts.get(ALPHA).drained


def test_a_host_that_was_resumed_while_its_worker_was_down_stays_resumed(hosts, beat_of):
    beat = joined(beat_of([]))
    hosts.drain(ALPHA)
    beat.send()
    hosts.resume(ALPHA)

    joined(beat_of([]))

    assert not hosts.get(ALPHA).drained


def test_an_invalid_state_file_is_ignored(tmp_path):
    (tmp_path / "redis.epoch").write_text("")

    assert RedisState.load(tmp_path / "redis.epoch") == RedisState()


def test_a_malformed_message_is_reported_once_with_the_next_heartbeat(hosts, beat_of):
    dropped = DroppedMessages()
    beat = joined(beat_of([], dropped=dropped))
    for _ in range(3):
        dropped.add()

    beat.send()
    beat.send()

    assert hosts.get(ALPHA).messages_dropped == 3


def test_malformed_messages_met_during_a_redis_outage_are_reported_afterwards():
    dropped, reported = DroppedMessages(), []
    dropped.add()
    with pytest.raises(BrokerUnavailable):
        dropped.flush(_away)
    dropped.add()

    dropped.flush(reported.append)
    dropped.flush(reported.append)

    assert reported == [2]


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


class InterruptedOnce(list[str]):
    def append(self, what: str) -> None:
        super().append(what)
        if len(self) == 1:
            raise BrokerUnavailable(detail="gone in the middle")


def test_a_second_stop_returns_only_once_the_first_has_left(beat_of, hosts, monkeypatch):
    leaves, may_leave, leave = Event(), Event(), hosts.leave

    def slow_leave(host):
        leaves.set()
        assert may_leave.wait(LEAVES_WITHIN)
        leave(host)

    monkeypatch.setattr(hosts, "leave", slow_leave)
    beat = beat_of([])
    beat.start()
    first, second = Thread(target=beat.stop), Thread(target=beat.stop)
    first.start()
    assert leaves.wait(LEAVES_WITHIN)
    second.start()
    second.join(0.2)
    waits = second.is_alive()
    may_leave.set()
    first.join()
    second.join()

    assert waits
    assert not hosts.get(ALPHA).live


def test_a_restore_that_an_outage_interrupts_is_repeated_with_the_next_heartbeat(desk, beat_of, shared_redis):
    received = InterruptedOnce()
    beat = joined(beat_of(received))
    epoch = RedisState.of(desk.host).epoch

    shared_redis.empty()
    with pytest.raises(BrokerUnavailable):
        beat.send()
    interrupted = RedisState.of(desk.host).epoch
    beat.send()
    beat.send()

    assert received == ["new", "new"]
    assert interrupted == epoch != RedisState.of(desk.host).epoch
