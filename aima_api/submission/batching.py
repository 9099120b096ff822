"""Requests that come while others are carried out are carried out together, as soon as those are done, by one thread.

Redis is asked for all of them at once. With each in a thread of its own, most of a start's time would go by in waiting
for a turn: of threads, and of Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from aima_core.errors import AimaError

GATHERS = timedelta(milliseconds=1)
"""Whoever has just been answered often asks again at once: a turn for one alone costs as much as one for many."""
AT_MOST = 50
"""Requests carried out together; those beyond wait for the next turn."""
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
_Waiting = tuple[Asked, "asyncio.Future[Answer]"]


class Batcher(Generic[Asked, Answer]):
    """To be called in one event loop."""

    def __init__(self, carry_out: Callable[[Sequence[Asked]], Sequence[Answer | AimaError]]) -> None:
        """`carry_out` gives an answer for each; what it raises is the answer to all."""
        self._carry_out = carry_out
        self._waiting: list[_Waiting[Asked, Answer]] = []
        self._locks: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        """Raises what the answer is, if that is a failure."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._locks is None:
            self._locks = asyncio.create_task(self._take_turns())
        return await answer

    async def _take_turns(self) -> None:
        try:
            while self._waiting:
                turn, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
                await self._take(turn)
                await asyncio.sleep(GATHERS.total_seconds())
        finally:
            self._locks = None

    async def _take(self, turn: Sequence[_Waiting[Asked, Answer]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await asyncio.to_thread(self._carry_out, [asked for asked, _ in turn])
        except Exception as failed:  # noqa: BLE001  # whatever it is, those who wait are to hear of it
            answers = [failed] * len(turn)
        for (_, waiting), answer in zip(turn, answers, strict=True):
            _tell(waiting, answer)


def _tell(waiting: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if waiting.done():
        return  # whoever asked has gone
    if isinstance(answer, Exception):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)
