"""The interface between a runtime and the contract suite: a bench with programs of known behaviour.

To join: subclass Bench in `on_<name>.py` and name it in `conftest.BENCHES`. Everything a suite's test makes carries
the bench's own labels, and `close` removes it again.
"""

from __future__ import annotations

import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from lab.parts import free_port

from aima_worker.runtime import ContainerRuntime, ContainerSpec

LAST_WORDS = "CUDA out of memory"
EXIT_STATUS = 3
FLOOD = 5000
LONG = 40_000
"""Characters of the one long line that JUNK writes."""


class Program(StrEnum):
    SERVES = "serves"
    """Answers 200 to GET /health on its port; exits on SIGTERM."""
    CRASHES = "crashes"
    """Crashes at once: writes LAST_WORDS to stderr and exits with EXIT_STATUS."""
    STUBBORN = "stubborn"
    """Writes `deaf`, ignores SIGTERM and runs on."""
    SPEAKS = "speaks"
    """Writes `out 1`, `out 2` to stdout, then `err 1`, `err 2` to stderr, and runs on."""
    COUNTS = "counts"
    """Writes `count 1`, `count 2`, …, about twenty a second, and keeps running."""
    FLOODS = "floods"
    """Writes `line 1` to `line FLOOD` as fast as it can, and exits 0."""
    JUNK = "junk"
    """Writes an escape sequence, invalid UTF-8, a NUL, LONG times `x` in one line, a line `end`; exits 0."""
    GREEDY = "greedy"
    """Allocates memory until it is killed; its spec has a limit of 32 MiB."""


JUNK_BYTES = b"\x1b[31mred\x1b[0m\a\n" + b"\xff\xfe bad \x00 bytes\n" + b"x" * LONG + b"\n" + b"end\n"


class Bench(ABC):
    runtime: ContainerRuntime
    absent_image = "localhost:1/nobody/has:this"
    """A reference that is neither on the host nor in a registry."""
    has_images = True
    """Whether it runs images at all."""
    separates_streams = True
    """Whether stdout and stderr are separate."""
    isolates = True
    """Whether it has networks of its own for containers."""
    limits_memory = True
    """Whether a memory limit is enforced and reported as `oom_killed`."""

    def __init__(self) -> None:
        self.labels = {"aima.bench": uuid.uuid4().hex}

    @property
    @abstractmethod
    def image(self) -> str:
        """The reference of an image on the host."""

    def spare_image(self) -> str:
        """An image on the host that serves, and that the test removes."""
        raise NotImplementedError

    @abstractmethod
    def command(self, program: Program, *, port: int) -> tuple[str, ...]:
        """The command for `program`; a server listens on `port`."""

    def spec(self, program: Program, **changes: Any) -> ContainerSpec:
        """A spec for `program`, with a unique name and a free port; `changes` replace its fields."""
        port = changes.get("host_port") or free_port()
        fields: dict[str, Any] = {
            "name": f"aima-bench-{uuid.uuid4().hex[:12]}",
            "image": self.image_for(program),
            "command": self.command(program, port=self.listens_on(port)),
            "labels": {**self.labels, "aima.program": program.value},
            "host_address": "127.0.0.1",
            "host_port": port,
            "container_port": self.listens_on(port),
            "memory": 32 << 20 if program is Program.GREEDY else None,
        }
        return ContainerSpec(**fields | changes)

    def image_for(self, program: Program) -> str:  # noqa: ARG002 a bench may have an image each
        return self.image

    def listens_on(self, host_port: int) -> int:  # noqa: ARG002 a bench may map nothing
        """The container port for a host port."""
        return 8000

    def probe(self, url: str) -> int:
        """The HTTP status of `url`. Raises OSError if nothing answers."""
        try:
            with urlopen(url, timeout=5) as answer:
                status: int = answer.status
                return status
        except HTTPError as answered:
            return answered.code

    def reaches(self, name: str, address: str, port: int) -> bool:
        """Whether a program in the container of that name can connect there."""
        raise NotImplementedError

    def writes(self, name: str, path: str, *, mebibytes: int) -> bool:
        """Whether a program in the container of that name can write so much to a file."""
        raise NotImplementedError

    gateway = "192.0.2.1"
    """An address of the host to which its containers have a route."""

    @property
    def network(self) -> str:
        """The installation of a network of its own; `close` removes it."""
        return self.labels["aima.bench"][:10]

    @contextmanager
    def squatting(self, port: int) -> Iterator[None]:
        """Another program listens on the host port."""
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", port))
            squatter.listen()
            yield

    def close(self) -> None:
        for container in self.runtime.containers(self.labels):
            self.runtime.remove(container.name, grace=timedelta(0))
