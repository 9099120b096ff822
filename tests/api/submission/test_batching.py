"""Micro-batching: every concurrent request of a batch gets its own result, and none is blocked by another."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from aima_api.submission.starts import MAX_BATCH_SIZE, Batcher
from aima_core.errors import AimaError, BrokerUnavailable, UnknownService

SECONDS = 5


class Turns:
    """Doubles its requests, records the batches, and blocks the first batch until it is released."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        self.begun, self.goes_on = Event(), Event()

    def __call__(self, asked: list[int]) -> list[int | AimaError]:
        self.taken.append(list(asked))
        self.begun.set()
        assert self.goes_on.wait(SECONDS)
        return [number * 2 if number > 0 else UnknownService(service="svc-tiny-dial") for number in asked]


def answers_of(locks: Turns, numbers: range | list[int]) -> list[object]:
    """The results of a first request, and of others that arrive while its batch runs."""

    async def ask() -> list[object]:
        batcher = Batcher(locks)
        first, *others = numbers
        asking = [asyncio.create_task(batcher(first))]
        await asyncio.to_thread(locks.begun.wait, SECONDS)
        asking += [asyncio.create_task(batcher(number)) for number in others]
        await asyncio.sleep(0)
        locks.goes_on.set()
        return await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), SECONDS)

    return asyncio.run(ask())


def test_submissions_that_arrive_during_a_batch_form_the_next_and_get_their_own_results():
    locks = Turns()

    answers = answers_of(locks, [1, 2, 3, 4])

    assert answers == [2, 4, 6, 8]
    assert locks.taken == [[1], [2, 3, 4]]


def test_a_refused_submission_refuses_no_other():
    first, refused, other = answers_of(Turns(), [1, 0, 3])

    assert (first, other) == (2, 6)
    assert isinstance(refused, UnknownService)


def test_many_submissions_are_split_into_batches():
    locks = Turns()

    answers = answers_of(locks, range(1, 2 * MAX_BATCH_SIZE + 3))

    assert answers == [2 * number for number in range(1, 2 * MAX_BATCH_SIZE + 3)]
    assert [len(turn) for turn in locks.taken] == [1, MAX_BATCH_SIZE, MAX_BATCH_SIZE, 1]


@pytest.mark.parametrize("broken", [BrokerUnavailable(detail="cut off"), ZeroDivisionError()])
def test_a_failed_batch_fails_all_its_submissions_and_the_next_batch_runs(broken):
    def run_command(asked: list[int]) -> list[int]:
        if 0 in asked:
            raise broken
        return asked

    async def ask() -> list[object]:
        batcher = Batcher(run_command)
        reported = await asyncio.gather(batcher(0), batcher(1), return_exceptions=True)
        return [*reported, await batcher(2)]

    assert asyncio.run(ask()) == [broken, broken, 2]


def test_a_cancelled_submission_delays_no_other():
    locks = Turns()

    async def ask() -> int:
        batcher = Batcher(locks)
        gone, stays = asyncio.create_task(batcher(1)), asyncio.create_task(batcher(2))
        await asyncio.to_thread(locks.begun.wait, SECONDS)
        gone.cancel()
        locks.goes_on.set()
        return await asyncio.wait_for(stays, SECONDS)

    assert asyncio.run(ask()) == 4
