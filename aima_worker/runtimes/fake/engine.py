"""One engine of the fake runtime: how it behaves, what it has said, and how it ended. Not thread-safe by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Condition
from typing import Literal, Self

from aima_core.logs.protocol import LogLine
from aima_worker.runtime import Container, ContainerSpec, Status
from aima_worker.runtimes.line_splitter import LineSplitter

KILLED = 137


@dataclass(frozen=True)
class Behaviour:
    """How an engine behaves. The plain one serves at once, says nothing, and ends when asked to."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    """Ends with it at once, after having said the above."""
    out_of_memory: bool = False
    """Is killed at once for want of memory."""
    counts: timedelta | None = None
    """Says `count 1`, `count 2`, … in this rhythm."""
    loads_for: timedelta = timedelta(0)
    """Until then the probe answers 503."""
    answers: bool = True
    deaf: bool = False
    """Does not end when asked, only when killed."""


@dataclass
class FakeEngine:
    id: str
    spec: ContainerSpec
    manners: Behaviour
    now: Callable[[], datetime]
    started_at: datetime = field(init=False)
    exit_code: int | None = None
    oom_killed: bool = False
    said: list[LogLine] = field(default_factory=list)
    counted: int = 0

    def __post_init__(self) -> None:
        self.started_at = self.now()

    @property
    def running(self) -> bool:
        return self.exit_code is None

    @property
    def health(self) -> int | None:
        """The HTTP status that it answers with; None while it does not."""
        if not (self.running and self.manners.answers):
            return None
        return 200 if self.now() - self.started_at >= self.manners.loads_for else 503

    def begin(self) -> None:
        """Say and do what its manners have it do at once."""
        self.say(self.manners.stdout, "stdout")
        self.say(self.manners.stderr, "stderr")
        if self.manners.out_of_memory:
            self.end(KILLED, oom_killed=True)
        elif self.manners.exit_code is not None:
            self.end(self.manners.exit_code)

    def end(self, exit_code: int, *, oom_killed: bool = False) -> None:
        if self.running:
            self.exit_code, self.oom_killed = exit_code, oom_killed

    def say(self, said: bytes, stream: Literal["stdout", "stderr"]) -> None:
        splitter = LineSplitter()
        for text in (*splitter.feed(said), *splitter.end()):
            self.said.append(LogLine(at=self.now(), stream=stream, text=text))

    def lines(self) -> list[LogLine]:
        """All that it has said by now."""
        if self.manners.counts is not None and self.running:
            due = int((self.now() - self.started_at) / self.manners.counts)
            for number in range(self.counted + 1, due + 1):
                self.say(b"count %d\n" % number, "stdout")
            self.counted = max(self.counted, due)
        return self.said

    def as_container(self) -> Container:
        return Container(
            id=self.id,
            name=self.spec.name,
            status=Status.RUNNING if self.running else Status.EXITED,
            labels=self.spec.labels,
            image=self.spec.image,
            started_at=self.started_at,
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            host_ports={self.spec.container_port: self.spec.host_port},
        )


class FakeLogs:
    """A LogStream."""

    def __init__(
        self,
        engine: FakeEngine | None,
        changed: Condition,
        *,
        follow: bool,
        tail: int | None,
        since: datetime | None,
    ) -> None:
        self._engine = engine
        self._changed = changed
        self._follow = follow
        self._tail = tail
        self._since = since
        self._closed = False

    def __iter__(self) -> Iterator[LogLine]:
        if self._engine is None or self._closed:
            return
        with self._changed:
            said = list(self._engine.lines())
        first = [line for line in said if self._since is None or line.at >= self._since]
        yield from first if self._tail is None else first[max(len(first) - self._tail, 0) :]
        read = len(said)
        while self._follow and (more := self._wait_for_more(self._engine, read)):
            read += len(more)
            yield from more

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wait_for_more(self, engine: FakeEngine, read: int) -> list[LogLine]:
        """What was said after the first `read` lines; nothing once the engine has ended or this is closed."""
        rhythm = engine.manners.counts.total_seconds() if engine.manners.counts else None
        with self._changed:
            while not self._closed:
                more = engine.lines()[read:]
                if more or not engine.running:
                    return more
                self._changed.wait(rhythm)
        return []


class FakeChanges:
    """A ChangeStream."""

    def __init__(
        self,
        changed: Condition,
        happened: list[ContainerSpec],
        *,
        labels: Mapping[str, str],
        is_away: Callable[[], bool],
    ) -> None:
        """`happened` grows at its end, whenever something happens to a container, by what that is made from."""
        self._changed = changed
        self._happened = happened
        self._labels = labels
        self._is_away = is_away
        self._heard = len(happened)
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        while specs := self._next():
            yield from {spec.name for spec in specs if self._labels.items() <= spec.labels.items()}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> list[ContainerSpec]:
        """What happened since this was last asked; nothing once it is closed, or the engine is away."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_away() or len(self._happened) > self._heard)
            if self._closed or self._is_away():
                return []
            specs = self._happened[self._heard :]
            self._heard += len(specs)
        return specs
