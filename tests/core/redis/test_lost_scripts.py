"""Redis that loses its scripts at any point of a call, as at a restart or a failover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from aima_api.planning.placement import PlacementLocks
from aima_core.domain.ids import ServiceId
from aima_core.errors import BrokerUnavailable
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import MAX_CALLS, Scripts
from aima_core.trust.orders import clock_ms, highest_fence

pytestmark = pytest.mark.redis

SCRIPT = "operations/reserve_fences"
SERVICE = ServiceId("svc-tiny-dial")
NUMBERS = pytest.mark.parametrize("number", [1, 3], ids="of {} calls".format)


@pytest.fixture
def losing(a_redis, monkeypatch) -> Iterator[Callable[[int], TextRedis]]:
    """A connection whose Redis loses its scripts so often, each time just after one was loaded."""
    link = command_link(a_redis().url)
    load, loads = link.script_load, count(1)

    def make(losses: int) -> TextRedis:
        def load_and_lose(text: str) -> str:
            sha = load(text)
            if next(loads) <= losses:
                link.execute_command("SCRIPT", "FLUSH")
            return sha

        monkeypatch.setattr(link, "script_load", load_and_lose)
        return link

    yield make
    link.close()


def reserved_fences(link: TextRedis, number: int) -> list[int]:
    """By so many calls at once."""
    calls = [([keys.FENCE], [clock_ms(), highest_fence(), 1])] * number
    return [int(first) for first, _ in Scripts(link).each(SCRIPT, calls)]


@NUMBERS
def test_a_script_that_is_lost_between_its_load_and_its_call_is_loaded_again(losing, number):
    fences = reserved_fences(losing(2), number)

    assert fences == [fences[0] + each for each in range(number)]


@NUMBERS
def test_redis_that_keeps_losing_its_scripts_is_unavailable(losing, number):
    with pytest.raises(BrokerUnavailable, match="keeps losing its scripts"):
        reserved_fences(losing(MAX_CALLS), number)


def test_a_lock_of_redis_that_loses_its_scripts_is_left_to_expire(losing):
    link = losing(MAX_CALLS)

    with PlacementLocks(link).holding([SERVICE]):
        pass

    assert link.pttl(keys.turn(SERVICE)) > 0
