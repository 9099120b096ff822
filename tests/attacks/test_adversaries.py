"""Seeded adversaries while an owner works: no crash, no leak, no unauthorised container, no denial that outlasts them.

A minute each; `python -m attacks` plays one for as long as asked. Each is built from what it has captured, so that a
share of its tries passes the first check; an adversary whose tries all fail there is a violation as well.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from attacks.adversary import Adversary, played
from attacks.key_holder import SCOPES, KeyHolder
from attacks.stage import attack_stage
from attacks.stranger import Stranger
from attacks.writer import RedisWriter
from lab.parts import missing
from lab.redis_server import RedisServer, redis_program

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 12
DURATION = timedelta(seconds=60)


@pytest.fixture
def stage(tmp_path):
    program = redis_program()
    if program is None:
        missing("there is no Redis server")
    server = RedisServer(program, tmp_path)
    server.start()
    try:
        with attack_stage(server, tmp_path) as stage:
            yield stage
    finally:
        server.kill()


def test_a_writer_in_redis_gains_and_breaks_nothing_that_lasts(stage):
    assert played(RedisWriter(stage, SEED), duration=DURATION, seed=SEED) == []


def test_a_stranger_on_the_network_gains_and_breaks_nothing(stage):
    assert played(Stranger(stage, SEED), duration=DURATION, seed=SEED) == []


def test_a_key_of_each_scope_allows_no_more_than_its_scope(stage):
    holders = [KeyHolder(stage, SEED, scope=scope) for scope in SCOPES]

    violations = [played(each, duration=DURATION / len(SCOPES), seed=SEED) for each in holders]

    assert violations == [[] for _ in SCOPES]
    assert set.intersection(*(set(each.never_requested()) for each in holders)) == set()


class Blunt(Adversary):
    name = "blunt"
    passes = 0.2

    def actions(self):
        return ((1, lambda: "nothing"),)

    def accepted(self):
        return 1, 10


def test_an_adversary_whose_tries_fail_at_the_first_check_is_a_violation(stage):
    found = played(Blunt(stage, SEED), duration=timedelta(seconds=0.1), seed=SEED)

    assert found == ["1 of 10 tries passed the first check, less than 20%: it attacks nothing"]
