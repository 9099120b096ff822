"""The balancer: the fewest in flight, slow start, cool-downs, and a queue that is fair between keys."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from aima_api.gateway.balancer import FIRST_COOL_DOWN, LONGEST_COOL_DOWN, SLOW_START, Backend, Balancer, Failing
from aima_api.gateway.inference import Inference
from aima_core.errors import GatewayBusy, NoInstanceReady

CHAT = Inference.CHAT


@dataclass
class Way:
    url: str = "http://127.0.0.1:1"

    def headers(self):
        return {}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, duration: timedelta) -> None:
        self.now += duration.total_seconds()


@pytest.fixture
def clock():
    return Clock()


def backend(host: str, **having) -> Backend:
    return Backend(f"svc-tiny-dial@{host}", Way(), serves=("chat",), **having)


def balancer(clock, *, running: int = 100, waiting: int = 100, wait: timedelta = timedelta(seconds=5)) -> Balancer:
    return Balancer(running=running, waiting=waiting, wait=wait, clock=clock)


def picks(by: Balancer, pool, number: int) -> list[str]:
    return [slot.backend.instance.partition("@")[2] for _ in range(number) if (slot := by.pick(pool, CHAT))]


def test_the_instance_with_the_fewest_requests_in_flight_gets_the_next(clock):
    by, pool = balancer(clock), [backend("a"), backend("b"), backend("c")]

    assert sorted(picks(by, pool, 9)) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_instances_without_requests_take_turns(clock):
    by, pool, used = balancer(clock), [backend("a"), backend("b")], []
    for _ in range(4):
        with by.pick(pool, CHAT) as slot:
            used.append(slot.backend.instance[-1])

    assert used == ["a", "b", "a", "b"]


def test_a_new_instance_gets_a_growing_share(clock):
    by, pool = balancer(clock), [backend("old"), backend("new", since=clock())]

    assert picks(by, pool, 20).count("new") <= 2
    clock.passes(SLOW_START)
    assert picks(by, pool, 16).count("new") == 16


def test_an_instance_at_its_limit_gets_none(clock):
    by, pool = balancer(clock, running=2), [backend("a")]

    assert picks(by, pool, 5) == ["a", "a"]


@pytest.mark.parametrize("state", [{"leaving": True}, {"serves": frozenset({"rerank"})}])
def test_an_instance_that_leaves_or_does_not_serve_the_path_gets_none(clock, state):
    one = backend("a")
    for name, value in state.items():
        setattr(one, name, value)

    assert balancer(clock).pick([one], CHAT) is None


def test_an_instance_whose_host_is_silent_is_the_last_resort(clock):
    by, pool = balancer(clock, running=2), [backend("silent"), backend("live")]
    pool[0].live = False

    assert picks(by, pool, 4) == ["live", "live", "silent", "silent"]


def test_a_failed_instance_is_left_out_then_probed_by_one_request(clock):
    by, one = balancer(clock), backend("a")

    assert one.failed(Failing.CONNECTION, clock())
    assert by.pick([one], CHAT) is None

    clock.passes(FIRST_COOL_DOWN)
    with by.pick([one], CHAT) as probe:
        assert by.pick([one], CHAT) is None
        probe.backend.succeeded(clock())
    assert len(picks(by, [one], 3)) == 3


def test_cool_downs_double_up_to_a_limit(clock):
    by, one, lengths = balancer(clock), backend("a"), []
    for _ in range(8):
        assert one.failed(Failing.CONNECTION, clock())
        lengths.append(one.cool_until - clock())
        clock.now = one.cool_until
        with by.pick([one], CHAT):
            pass

    longest = LONGEST_COOL_DOWN.total_seconds()
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, longest, longest, longest]


def test_requests_that_fail_together_are_one_failure(clock):
    one = backend("a")

    assert [one.failed(Failing.CONNECTION, clock()) for _ in range(5)] == [True, False, False, False, False]


def test_errors_of_the_server_count_in_a_row_only(clock):
    one = backend("a")

    assert [one.failed(Failing.STATUS, clock()) for _ in range(2)] == [False, False]
    one.succeeded(clock())
    assert [one.failed(Failing.STATUS, clock()) for _ in range(3)] == [False, False, True]


def test_a_probe_whose_client_left_lets_the_next_one_probe(clock):
    by, one = balancer(clock), backend("a")
    one.failed(Failing.CONNECTION, clock())
    clock.passes(FIRST_COOL_DOWN)

    with by.pick([one], CHAT):
        pass

    assert by.pick([one], CHAT) is not None


# The queue --------------------------------------------------------------------------------------------------------


class Line:
    """Requests that wait for one instance with one slot, which is taken."""

    def __init__(self, clock, **limits) -> None:
        self.by = balancer(clock, running=1, **limits)
        self.pool = [backend("a")]
        self.slot = self.by.pick(self.pool, CHAT)
        self.served: list[str] = []

    def waits(self, key: str) -> asyncio.Task[None]:
        return asyncio.create_task(self._wait(key))

    def frees(self) -> None:
        self.slot.__exit__(None, None, None)

    async def _wait(self, key: str) -> None:
        services = ("svc-tiny-dial",)
        with await self.by.wait(services, lambda: self.by.pick(self.pool, CHAT), key=key, model="dial"):
            self.served.append(key)


def run(work) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def test_keys_take_turns_whoever_came_first(clock):
    async def work():
        line = Line(clock)
        waiting = [line.waits(key) for key in "aaaabbc"]
        await asyncio.sleep(0)
        line.frees()
        await asyncio.gather(*waiting)

        assert line.served == list("abcabaa")

    run(work())


def test_beyond_the_limit_requests_are_refused(clock):
    async def work():
        line = Line(clock, waiting=2)
        waiting = [line.waits(key) for key in "aba"]
        await asyncio.sleep(0)

        with pytest.raises(GatewayBusy):
            await waiting[2]
        line.frees()
        await asyncio.gather(*waiting[:2])

    run(work())


def test_a_full_queue_refuses_the_greediest_key_and_not_a_new_one(clock):
    async def work():
        line = Line(clock, waiting=3)
        greedy = [line.waits("greedy") for _ in range(3)]
        await asyncio.sleep(0)
        modest = line.waits("modest")
        await asyncio.sleep(0)

        with pytest.raises(GatewayBusy):
            await greedy[2]
        line.frees()
        await asyncio.gather(*greedy[:2], modest)

        assert line.served == ["greedy", "modest", "greedy"]

    run(work())


def test_a_request_that_waited_too_long_is_refused(clock):
    async def work():
        line = Line(clock, wait=timedelta())

        with pytest.raises(NoInstanceReady):
            await line.waits("a")
        assert line.by.waiting == 0

    run(work())


def test_a_slot_that_arrives_as_its_request_ends_is_not_lost(clock):
    async def work():
        line = Line(clock)
        waiting = line.waits("a")
        await asyncio.sleep(0)
        line.frees()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert (line.pool[0].in_flight, line.by.waiting) == (0, 0)

    run(work())


def test_waiting_requests_are_served_after_a_cool_down(clock):
    async def work():
        line = Line(clock)
        line.pool[0].failed(Failing.CONNECTION, clock())
        waiting = line.waits("a")
        await asyncio.sleep(0)
        line.frees()
        await asyncio.sleep(0)
        assert line.served == []

        clock.passes(FIRST_COOL_DOWN)
        line.by.dispatch()
        await waiting

        assert line.served == ["a"]

    run(work())
