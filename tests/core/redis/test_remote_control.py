"""Celery's remote control, open to any client of Redis: workers can be inspected and not changed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.celery_client import a_celery

from aima_core.domain.operations import State

pytestmark = pytest.mark.redis

ANSWERS_WITHIN = 30
WORKER = "aima@alpha"
HARMFUL = {
    "shutdown": {},
    "pool_restart": {},
    "pool_shrink": {"n": 7},
    "pool_grow": {"n": 100},
    "autoscale": {"max": 1, "min": 0},
    "add_consumer": {"queue": "host.beta"},
    "cancel_consumer": {"queue": "host.alpha"},
    "rate_limit": {"task_name": "aima.start", "rate_limit": "1/h"},
    "time_limit": {"task_name": "aima.start", "soft": 0.001, "hard": 0.001},
    "terminate": {"signal": "KILL", "task_id": "any"},
    "memdump": {},
    "objgraph": {},
}


@pytest.fixture
def fleet_and_control(a_redis, hosts_of, asked_of):
    redis = a_redis()
    with a_celery(redis.url) as celery:
        yield hosts_of(redis.url), asked_of(redis.url), celery.control


def test_no_remote_control_command_changes_a_worker(fleet_and_control):
    fleet, asked, control = fleet_and_control

    def known():
        inspect = control.inspect(timeout=ANSWERS_WITHIN, destination=[WORKER])
        return inspect.stats()[WORKER]["pool"], sorted(each["name"] for each in inspect.active_queues()[WORKER])

    before = known()

    for command, arguments in HARMFUL.items():
        answers = control.broadcast(command, arguments=arguments, reply=True, timeout=ANSWERS_WITHIN, limit=1)
        assert ["error" in answer[WORKER] for answer in answers] == [True], command

    assert known() == before
    assert asked.have_ended([asked.start("svc-tiny-next")], within=timedelta(seconds=60))
    assert fleet.processes[0].up


def test_a_start_cannot_be_revoked_through_celery(fleet_and_control):
    fleet, asked, control = fleet_and_control
    fleet.processes[0].freeze()
    id = asked.start("svc-tiny-wanted")

    control.revoke(id, terminate=True)
    fleet.processes[0].thaw()

    assert asked.have_ended([id], within=timedelta(seconds=60))
    assert asked.store.get(id).state is State.SUCCEEDED


def test_flower_can_inspect_workers_and_receive_task_events(fleet_and_control):
    _, _, control = fleet_and_control
    inspect = control.inspect(timeout=ANSWERS_WITHIN, destination=[WORKER])

    shown = [inspect.ping(), inspect.registered(), inspect.active(), inspect.reserved(), inspect.scheduled()]
    shown += [inspect.revoked(), inspect.conf()]

    assert [list(each) for each in shown] == [[WORKER]] * len(shown)
    assert control.broadcast("enable_events", reply=True, timeout=ANSWERS_WITHIN, limit=1)[0][WORKER]["ok"]
