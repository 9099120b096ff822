"""One container of the fake runtime: scripted behaviour, log and exit. Not thread-safe: the runtime holds its lock."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from aima_core.logs.protocol import LogLine
from aima_worker.runtime import SIGKILLED, Container, ContainerSpec, Status
from aima_worker.runtimes.line_splitter import LineSplitter


@dataclass(frozen=True)
class Behaviour:
    """A script for one engine. By default it is ready at once, logs nothing and exits on SIGTERM."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    """Crashes at once with this exit code, after its output."""
    out_of_memory: bool = False
    """Is killed at once by the out-of-memory killer."""
    counts: timedelta | None = None
    """Logs `count 1`, `count 2`, … at this interval."""
    loads_for: timedelta = timedelta(0)
    """The probe answers 503 until this has elapsed."""
    answers: bool = True
    deaf: bool = False
    """Ignores SIGTERM; exits only when killed."""


@dataclass
class FakeEngine:
    id: str
    spec: ContainerSpec
    behaviour: Behaviour
    now: Callable[[], datetime]
    image_id: str | None = None
    started_at: datetime = field(init=False)
    exit_code: int | None = None
    oom_killed: bool = False
    log: list[LogLine] = field(default_factory=list)
    counted: int = 0
    written: int = 0
    """Bytes on the disk."""

    def __post_init__(self) -> None:
        self.started_at = self.now()

    @property
    def running(self) -> bool:
        return self.exit_code is None

    @property
    def health(self) -> int | None:
        """The HTTP status of its health check; None if it does not answer."""
        if not (self.running and self.behaviour.answers):
            return None
        return 200 if self.now() - self.started_at >= self.behaviour.loads_for else 503

    def start(self) -> None:
        """Write its output, and crash if its script says so."""
        self.write(self.behaviour.stdout, "stdout")
        self.write(self.behaviour.stderr, "stderr")
        if self.behaviour.out_of_memory:
            self.exit(SIGKILLED, oom_killed=True)
        elif self.behaviour.exit_code is not None:
            self.exit(self.behaviour.exit_code)

    def exit(self, exit_code: int, *, oom_killed: bool = False) -> None:
        if self.running:
            self.exit_code, self.oom_killed = exit_code, oom_killed

    def write(self, data: bytes, stream: Literal["stdout", "stderr"]) -> None:
        splitter = LineSplitter()
        for text in (*splitter.feed(data), *splitter.end()):
            self.log.append(LogLine(at=self.now(), stream=stream, text=text))

    def lines(self) -> list[LogLine]:
        """Its log so far."""
        if self.behaviour.counts is not None and self.running:
            due = int((self.now() - self.started_at) / self.behaviour.counts)
            for number in range(self.counted + 1, due + 1):
                self.write(b"count %d\n" % number, "stdout")
            self.counted = max(self.counted, due)
        return self.log

    def as_container(self, *, sizes: bool = False) -> Container:
        return Container(
            id=self.id,
            name=self.spec.name,
            status=Status.RUNNING if self.running else Status.EXITED,
            labels=self.spec.labels,
            image=self.spec.image,
            image_id=self.image_id,
            started_at=self.started_at,
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            host_ports={self.spec.container_port: self.spec.host_port},
            written=self.written if sizes else None,
        )
