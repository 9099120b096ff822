"""A runtime that runs nothing and keeps every promise: for fast tests, and for fleets of hundreds of hosts.

Everything is in memory and no thread is its own. What shall go wrong is said beforehand: for the next run or pull, for
an image, or for a container that runs. Nothing listens on the ports; `probe` answers for them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Condition
from typing import Literal, Self
from urllib.parse import urlsplit

from aima_core.failures import AimaError, DockerUnavailable, GpuUnavailable, ImageNotFound, PortTaken, PullBroken
from aima_worker.log_lines import LineSplitter
from aima_worker.runtime import (
    Container,
    ContainerSpec,
    ImageFacts,
    LogLine,
    LogStream,
    PullStream,
    RuntimeFacts,
    Status,
)
from aima_worker.runtimes.fake_pull import FakePull, Published, digest_of

KILLED = 137


@dataclass(frozen=True)
class Manners:
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
class _Made:
    id: str
    spec: ContainerSpec
    manners: Manners
    started_at: datetime
    exit_code: int | None = None
    oom_killed: bool = False
    lines: list[LogLine] = field(default_factory=list)
    counted: int = 0

    @property
    def running(self) -> bool:
        return self.exit_code is None


class FakeRuntime:
    """A ContainerRuntime."""

    def __init__(
        self,
        *,
        host: str = "fake",
        arch: str = "amd64",
        images: Iterable[str] = (),
        gpus: bool = True,
        disk_free: int = 1_000_000_000_000,
        pull_pace: timedelta = timedelta(0),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.away = False
        """While true, every call raises DockerUnavailable."""
        self.taken_ports: set[int] = set()
        """By programs that are no containers."""
        self.manners: dict[str, Manners] = {}
        """Of the containers of an image."""
        self.published: dict[str, Published | None] = {}
        """What the registry has; None for what it has not. Images not named here are all there, and alike."""
        self._host = host
        self._arch = arch
        self._gpus = gpus
        self._disk_free = disk_free
        self._pull_pace = pull_pace
        self._now = now
        self._sleep = sleep
        self._images: dict[str, ImageFacts] = {}
        self._made: dict[str, _Made] = {}
        self._next_manners: list[Manners] = []
        self._next_pull: list[AimaError | Literal["stall"]] = []
        self._changed = Condition()
        for image in images:
            self._arrive(image, Published())

    # What shall happen ------------------------------------------------------------------------------------------

    def next_runs(self, manners: Manners) -> None:
        """The next container behaves like that, whatever its image."""
        self._next_manners.append(manners)

    def crash_next(self, *, last_words: str = "", exit_code: int = 1) -> None:
        self.next_runs(Manners(stderr=last_words.encode() + b"\n", exit_code=exit_code))

    def fail_next_pull(self, failure: AimaError | None = None) -> None:
        """Break the next pull halfway; with PullBroken unless said otherwise."""
        self._next_pull.append(failure or PullBroken(image="the image", detail="unexpected EOF"))

    def stall_next_pull(self) -> None:
        """Let the next pull move no more from halfway on."""
        self._next_pull.append("stall")

    def say(self, name: str, line: str) -> None:
        """Have a running container say a line."""
        with self._changed:
            self._speak(self._made[name], stdout=line.encode() + b"\n")

    def end(self, name: str, *, exit_code: int, oom_killed: bool = False, last_words: str = "") -> None:
        """Have a running container end by itself, or by somebody's hand."""
        with self._changed:
            made = self._made[name]
            self._speak(made, stderr=last_words.encode())
            made.exit_code, made.oom_killed = exit_code, oom_killed

    def spec_of(self, name: str) -> ContainerSpec:
        """What a container was made from."""
        return self._made[name].spec

    def probe(self, url: str) -> int:
        """What a GET of `url` would be answered; OSError when nothing would."""
        with self._changed:
            port = urlsplit(url).port
            for made in self._made.values():
                if made.running and made.spec.host_port == port and made.manners.answers:
                    return 200 if self._now() - made.started_at >= made.manners.loads_for else 503
        raise ConnectionRefusedError(f"nothing listens at {url}")

    # What a runtime does ----------------------------------------------------------------------------------------

    def facts(self) -> RuntimeFacts:
        with self._answering():
            return RuntimeFacts(kind="fake", version="0", gpus=self._gpus, disk_free=self._disk_free)

    def image(self, image: str) -> ImageFacts | None:
        with self._answering():
            return self._images.get(image) or next((has for has in self._images.values() if has.id == image), None)

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        with self._answering():
            published = self.published.get(image, Published())
            if published is None:
                raise ImageNotFound(image=image, detail="manifest unknown")
            fate = self._next_pull.pop(0) if self._next_pull else None
            return FakePull(
                image,
                published,
                stall=stall,
                pace=self._pull_pace,
                ends_with=fate if isinstance(fate, AimaError) else None,
                stalls=fate == "stall",
                arrived=lambda: self._arrive(image, published),
            )

    def run(self, spec: ContainerSpec) -> Container:
        with self._answering():
            standing = self._made.get(spec.name)
            if standing is not None and standing.running and standing.spec.fingerprint == spec.fingerprint:
                return _container(standing)
            self._made.pop(spec.name, None)
            self._check(spec)
            made = _Made(uuid.uuid4().hex, spec, self._manners_of(spec), self._now())
            self._made[spec.name] = made
            begun = _container(made)
            self._begin(made)
            return begun

    def find(self, name: str) -> Container | None:
        with self._answering():
            made = self._made.get(name)
            return _container(made) if made else None

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        with self._answering():
            return [_container(made) for made in self._made.values() if labels.items() <= made.spec.labels.items()]

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        with self._answering():
            return _FakeLogs(self, self._made.get(name), follow=follow, tail=tail, since=since)

    def remove(self, name: str, *, grace: timedelta) -> None:
        with self._answering():
            made = self._made.get(name)
        if made is None:
            return
        if made.running and made.manners.deaf:
            self._sleep(grace.total_seconds())
        with self._answering():
            made.exit_code = KILLED if made.exit_code is None else made.exit_code
            if self._made.get(name) is made:
                del self._made[name]

    # Inside, with the condition held ----------------------------------------------------------------------------

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._changed:
            if self.away:
                raise DockerUnavailable(host=self._host, detail="it was sent away")
            yield
            self._changed.notify_all()

    def _arrive(self, image: str, published: Published) -> None:
        with self._changed:
            self._images[image] = ImageFacts(
                id="sha256:" + sha256(image.encode()).hexdigest(),
                digest=digest_of(published.layer_ids(image)),
                arch=published.arch or self._arch,
                size=2 * sum(published.layers),
            )

    def _check(self, spec: ContainerSpec) -> None:
        if not any(spec.image in (name, image.id) for name, image in self._images.items()):
            raise ImageNotFound(image=spec.image, detail="No such image")
        if spec.gpus is not None and not self._gpus:
            raise GpuUnavailable(host=self._host, detail='could not select device driver "" with capabilities: [[gpu]]')
        used = {made.spec.host_port for made in self._made.values() if made.running}
        if spec.host_port in used | self.taken_ports:
            raise PortTaken(port=spec.host_port, host=self._host, holder="another container or program")

    def _manners_of(self, spec: ContainerSpec) -> Manners:
        return self._next_manners.pop(0) if self._next_manners else self.manners.get(spec.image, Manners())

    def _begin(self, made: _Made) -> None:
        self._speak(made, stdout=made.manners.stdout, stderr=made.manners.stderr)
        if made.manners.out_of_memory:
            made.exit_code, made.oom_killed = KILLED, True
        else:
            made.exit_code = made.manners.exit_code

    def _speak(self, made: _Made, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        for stream, said in (("stdout", stdout), ("stderr", stderr)):
            splitter = LineSplitter()
            for text in (*splitter.feed(said), *splitter.end()):
                made.lines.append(LogLine(at=self._now(), stream=stream, text=text))
        self._changed.notify_all()

    def _count_on(self, made: _Made) -> None:
        if made.manners.counts is None or not made.running:
            return
        due = int((self._now() - made.started_at) / made.manners.counts)
        for number in range(made.counted + 1, due + 1):
            self._speak(made, stdout=f"count {number}\n".encode())
        made.counted = max(made.counted, due)


class _FakeLogs:
    """A LogStream."""

    def __init__(
        self, runtime: FakeRuntime, made: _Made | None, *, follow: bool, tail: int | None, since: datetime | None
    ) -> None:
        self._runtime = runtime
        self._made = made
        self._follow = follow
        self._tail = tail
        self._since = since
        self._closed = False

    def __iter__(self) -> Iterator[LogLine]:
        if self._made is None:
            return
        with self._runtime._changed:
            self._runtime._count_on(self._made)
            read = len(self._made.lines)
            first = [line for line in self._made.lines if self._since is None or line.at >= self._since]
        yield from first if self._tail is None else first[max(len(first) - self._tail, 0) :]
        while self._follow and (more := self._wait_for_more(self._made, read)):
            read += len(more)
            yield from more

    def close(self) -> None:
        with self._runtime._changed:
            self._closed = True
            self._runtime._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wait_for_more(self, made: _Made, read: int) -> list[LogLine]:
        """What was said after the first `read` lines; nothing once the container has ended or this is closed."""
        rhythm = made.manners.counts.total_seconds() if made.manners.counts else None
        with self._runtime._changed:
            while True:
                self._runtime._count_on(made)
                if self._closed:
                    return []
                if made.lines[read:] or not made.running:
                    return made.lines[read:]
                self._runtime._changed.wait(rhythm)


def _container(made: _Made) -> Container:
    return Container(
        id=made.id,
        name=made.spec.name,
        status=Status.RUNNING if made.running else Status.EXITED,
        labels=made.spec.labels,
        image=made.spec.image,
        started_at=made.started_at,
        exit_code=made.exit_code,
        oom_killed=made.oom_killed,
        host_ports={made.spec.container_port: made.spec.host_port},
    )
