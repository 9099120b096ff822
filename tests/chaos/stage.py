"""What a run of chaos plays on: a system that can be hurt, mended, and asked what it really has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from chaos.asking import Node
from chaos.plan import Shape, Step

from aima_core.redis.connection import RedisClient


class Found(NamedTuple):
    """A container, as whatever runs it tells."""

    name: str
    status: str
    port: int


class Held(NamedTuple):
    """Of a process that has lived since this was first asked: what it holds."""

    threads: Sequence[str]
    """Their names, as far as those can be told."""
    descriptors: int


class Stage(Protocol):
    shape: Shape

    def nodes(self) -> Sequence[Node]:
        """Where the API is to be asked, whether it lives just now or not."""
        ...

    def redis(self) -> RedisClient:
        """A line of the harness' own."""
        ...

    def do(self, step: Step) -> str:
        """Make a fault; what was hit, in words."""
        ...

    def mend(self, step: Step) -> None:
        """Undo what `do` did, so far as it lasts."""
        ...

    def make_whole(self) -> None:
        """Mend everything, whatever is left to be mended, and wait until all of it works."""
        ...

    def containers(self) -> Mapping[str, Sequence[Found]]:
        """All of them by host, as the runtimes tell. Raises OSError or DockerException while one does not answer."""
        ...

    def held(self) -> Mapping[str, Held]:
        """By process, those alive; a process that was begun anew has another name."""
        ...

    def logs(self) -> str:
        """Where to look when something is wrong."""
        ...
