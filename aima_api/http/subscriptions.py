"""Fan-out within a process: a bounded queue per subscriber, grouped by the topic that it subscribes to.

A subscriber that is too slow loses the oldest items and finds `missed` set; it must fetch them elsewhere. Single
threaded: all methods run in the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Generic, TypeVar

Topic = TypeVar("Topic")
Item = TypeVar("Item")


class Subscription(Generic[Item]):
    def __init__(self, *, capacity: int, missed: bool = False) -> None:
        self.closed = False
        self.missed = missed
        """Items were lost, here or on their way."""
        self._items: deque[Item] = deque()
        self._capacity = capacity
        self._woken = asyncio.Event()
        if missed:
            self._woken.set()

    def deliver(self, item: Item) -> None:
        if len(self._items) >= self._capacity:
            self._items.popleft()
            self.missed = True
        self._items.append(item)
        self._woken.set()

    def mark_gap(self) -> None:
        self._items.clear()
        self.missed = True
        self._woken.set()

    def close(self) -> None:
        self.closed = True
        self._woken.set()

    def take(self) -> tuple[bool, list[Item]]:
        """Whether items were missed, and all items delivered."""
        taken = self.missed, list(self._items)
        self._items.clear()
        self.missed = False
        self._woken.clear()
        return taken

    async def wait(self, at_most: timedelta) -> bool:
        """Waits for an item, a gap, or the close. False on timeout."""
        if self.closed:
            return True
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class Subscriptions(Generic[Topic, Item]):
    """All open subscriptions of a process."""

    def __init__(self, *, capacity: int, missed: bool = False) -> None:
        """Each subscription starts with `missed`."""
        self._capacity = capacity
        self._missed = missed
        self._by_topic: dict[Topic, set[Subscription[Item]]] = {}
        self._closed = False

    @contextmanager
    def open(self, topic: Topic) -> Iterator[Subscription[Item]]:
        subscription: Subscription[Item] = Subscription(capacity=self._capacity, missed=self._missed)
        if self._closed:
            subscription.close()
        self._by_topic.setdefault(topic, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._by_topic[topic].discard(subscription)
            if not self._by_topic[topic]:
                del self._by_topic[topic]

    def of(self, topic: Topic) -> list[Subscription[Item]]:
        return list(self._by_topic.get(topic, ()))

    def all(self) -> list[Subscription[Item]]:
        return [subscription for topic in self._by_topic.values() for subscription in topic]

    def close(self) -> None:
        """Closes every subscription, open and future."""
        self._closed = True
        for subscription in self.all():
            subscription.close()
