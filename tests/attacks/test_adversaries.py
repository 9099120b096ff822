"""Seeded adversaries while an owner works: no crash, no leak, no unauthorised container, no denial that outlasts them.

A minute in all by default; `python -m attacks` plays one for as long as asked.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from attacks.adversary import played
from attacks.key_holder import SCOPES, KeyHolder
from attacks.stage import attack_stage
from attacks.stranger import Stranger
from attacks.writer import RedisWriter
from lab.parts import missing
from lab.redis_server import RedisServer, redis_program

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(400)]

SEED = 12
DURATION = timedelta(seconds=20)


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
    for scope in SCOPES:
        assert played(KeyHolder(stage, SEED, scope=scope), duration=DURATION / len(SCOPES), seed=SEED) == []
