"""Seeded adversaries while an owner works: no crash, no leak, no unauthorised container, no denial that outlasts them.

A minute each; `python -m attacks` plays one for as long as asked. Each is built from what it has captured, so that a
share of its tries passes the first check; an adversary whose tries all fail there is a violation as well. All act on
one stage, the writer in Redis last, since its forgeries stay. The stranger acts beside it: neither may start anything.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from attacks.adversary import Adversary, played
from attacks.key_holder import SCOPES, KeyHolder
from attacks.stage import attack_stage
from attacks.stranger import Stranger
from attacks.writer import RedisWriter
from lab.leaks import nothing_held
from lab.parts import missing
from lab.redis_server import RedisServer, redis_program

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 12
DURATION = timedelta(seconds=60)


@pytest.fixture(scope="module")
def stage_of_this_file(tmp_path_factory):
    program = redis_program()
    if program is None:
        missing("there is no Redis server")
    directory = tmp_path_factory.mktemp("stage")
    server = RedisServer(program, directory)
    server.start()
    try:
        with nothing_held(), attack_stage(server, directory) as stage:
            yield stage
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def leaves_nothing_held() -> None:
    """In place of the check of each test: the stage's clients connect again during one, and stay connected after it."""


@pytest.fixture
def stage(stage_of_this_file):
    stage_of_this_file.begin()
    return stage_of_this_file


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


def test_a_key_of_each_scope_allows_no_more_than_its_scope(stage):
    holders = [KeyHolder(stage, SEED, scope=scope) for scope in SCOPES]

    violations = [played(each, duration=DURATION / len(SCOPES), seed=SEED) for each in holders]

    assert violations == [[] for _ in SCOPES]
    assert set.intersection(*(set(each.never_requested()) for each in holders)) == set()


def test_a_writer_in_redis_and_a_stranger_on_the_network_gain_and_break_nothing_that_lasts(stage):
    assert played(RedisWriter(stage, SEED), Stranger(stage, SEED), duration=DURATION, seed=SEED) == []
