"""The stage of a chaos run: a system with faults to make and undo, and its real state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from chaos import messages
from chaos.client import Node
from chaos.plan import Fault, Shape, Step

from aima_core.redis.connection import RedisClient

SHORT = (1.0, 3.0, 6.0)
AT_ONCE = (0.0,)
REDIS = ("redis",)


class Found(NamedTuple):
    """A container as its runtime reports it."""

    name: str
    status: str
    port: int


class Held(NamedTuple):
    """The threads and descriptors of a process that was not restarted during the run."""

    threads: Sequence[str]
    """Their names, empty where they are unknown."""
    descriptors: int


class Act(NamedTuple):
    """A fault of a stage, and how it is made and undone."""

    fault: Fault
    make: Callable[[Step], object]
    """Returns the target as text, or None."""
    undo: Callable[[Step], object] | None = None
    """None for a fault that does not last."""


class Stage(ABC):
    def __init__(self, redis: RedisClient, acts: Sequence[Act], **shape: Any) -> None:
        """`redis` is a connection of the harness, `shape` are the other fields of a Shape."""
        self.shape = Shape(faults=tuple(act.fault for act in acts), **shape)
        self._acts = {act.fault.what: act for act in acts}
        self._redis = redis

    def redis(self) -> RedisClient:
        return self._redis

    def make(self, step: Step) -> str:
        """Injects a fault; returns its target as text."""
        return str(self._acts[step.what].make(step) or "")

    def undo(self, step: Step) -> None:
        if undo := self._acts[step.what].undo:
            undo(step)

    @abstractmethod
    def nodes(self) -> Sequence[Node]:
        """The API nodes, live or not."""

    @abstractmethod
    def make_whole(self) -> None:
        """Undoes every remaining fault and waits until everything works."""

    @abstractmethod
    def containers(self) -> Mapping[str, Sequence[Found]]:
        """All by host, as the runtimes report. Raises OSError or DockerException while one is unavailable."""

    @abstractmethod
    def held(self) -> Mapping[str, Held]:
        """By live process; a restarted process has another name."""

    @abstractmethod
    def logs(self) -> str:
        """The directory of the logs."""


class Killable(Protocol):
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


Part = Callable[[str], Killable]
"""The part of a target's name."""


def kill(what: str, targets: Sequence[str], part: Part, *, lasts: tuple[float, ...] = SHORT, weight: int = 1) -> Act:
    fault = Fault(what, tuple(targets), lasts, weight)
    return Act(fault, lambda step: part(step.target).kill(), lambda step: part(step.target).start())


def freeze(what: str, targets: Sequence[str], part: Part, *, lasts: tuple[float, ...], weight: int = 1) -> Act:
    fault = Fault(what, tuple(targets), lasts, weight)
    return Act(fault, lambda step: part(step.target).freeze(), lambda step: part(step.target).thaw())


def redis_acts(
    server: Killable, redis: RedisClient, *, cuts: int, single_cuts: int = 0, lost_messages: int
) -> Sequence[Act]:
    """The faults of Redis and of its queues, with their weights."""
    acts = [
        kill("kill redis", REDIS, lambda _: server, lasts=(0.2, 1.0, 4.0)),
        freeze("freeze redis", REDIS, lambda _: server, lasts=(0.5, 3.0, 7.0)),
        Act(Fault("cut connections", REDIS, AT_ONCE, cuts), lambda _: messages.cut_all(redis)),
        Act(Fault("cut one connection", REDIS, AT_ONCE, single_cuts), lambda step: messages.cut_one(redis, step)),
        Act(Fault("lose a message", REDIS, AT_ONCE, lost_messages), lambda step: messages.lose_one(redis, step)),
        Act(Fault("redeliver", REDIS, AT_ONCE, lost_messages), lambda step: messages.redeliver(redis, step)),
    ]
    return [act for act in acts if act.fault.weight]
