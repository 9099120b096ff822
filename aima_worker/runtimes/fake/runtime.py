"""The in-memory runtime for tests and for fleets of hundreds of hosts: every promise of the contract, no container.

One lock guards all its state. Failures are scripted for the next run or pull, for an image, or for a running container.
No socket listens on the ports; `probe` answers for them.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Condition
from urllib.parse import urlsplit

from aima_core.domain.hosts import ImageOnHost
from aima_core.errors import AimaError, DockerUnavailable, GpuUnavailable, ImageInUse, ImageNotFound, PortTaken
from aima_worker.runtime import (
    SIGKILLED,
    ChangeStream,
    Container,
    ContainerSpec,
    ImageFacts,
    LogStream,
    PullStream,
    RuntimeFacts,
)
from aima_worker.runtimes.fake.engine import Behaviour, FakeEngine
from aima_worker.runtimes.fake.streams import FakeChanges, FakeLogs, FakePull, Outcome, Published

DISK_FREE = 1_000_000_000_000


class FakeRuntime:
    """A ContainerRuntime."""

    def __init__(
        self,
        *,
        host: str = "fake",
        arch: str = "amd64",
        images: Iterable[str] = (),
        gpus: bool = True,
        pull_pace: timedelta = timedelta(0),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.taken_ports: set[int] = set()
        """Ports that other programs listen on."""
        self.behaviours: dict[str, Behaviour] = {}
        """By image, for its containers."""
        self.published: dict[str, Published | None] = {}
        """The registry by image, None for an image that it lacks. It has every image that is not listed here."""
        self._host = host
        self._arch = arch
        self._gpus = gpus
        self._pull_pace = pull_pace
        self._now = now
        self._images: dict[str, ImageFacts] = {}
        self._engines: dict[str, FakeEngine] = {}
        self._next_behaviours: list[Behaviour] = []
        self._next_pulls: list[Outcome] = []
        self._changed = Condition()
        self._changes: list[ContainerSpec] = []
        self._away = False
        for image in images:
            self._arrive(image, Published())

    # Scripting --------------------------------------------------------------------------------------------------

    @property
    def away(self) -> bool:
        """While true, every call raises DockerUnavailable and blocked streams end."""
        return self._away

    @away.setter
    def away(self, is_away: bool) -> None:
        with self._changed:
            self._away = is_away
            self._changed.notify_all()

    def next_runs(self, behaviour: Behaviour) -> None:
        """Script the next container, of any image."""
        self._next_behaviours.append(behaviour)

    def crash_next(self, *, last_words: str = "", exit_code: int = 1) -> None:
        self.next_runs(Behaviour(stderr=last_words.encode(), exit_code=exit_code))

    def fail_next_pull(self, failure: AimaError | None = None) -> None:
        """Fail the next pull halfway, by default with PullBroken."""
        self._next_pulls.append(failure or "break")

    def stall_next_pull(self) -> None:
        """Block the next pull halfway until it stalls."""
        self._next_pulls.append("stall")

    def say(self, name: str, line: str) -> None:
        """Append a line to the log of a running container."""
        with self._changing(name) as engine:
            engine.write(line.encode() + b"\n", "stdout")

    def end(self, name: str, *, exit_code: int, oom_killed: bool = False, last_words: str = "") -> None:
        """Crash a running container, as if by itself or by hand."""
        with self._changing(name) as engine:
            engine.write(last_words.encode(), "stderr")
            engine.exit(exit_code, oom_killed=oom_killed)

    def write(self, name: str, size: int) -> None:
        """A running container writes so many bytes to its file system."""
        with self._changed:
            self._engines[name].written += size

    def behave(self, name: str, behaviour: Behaviour) -> None:
        """Script a running container from now on."""
        with self._changed:
            self._engines[name].behaviour = behaviour

    def spec_of(self, name: str) -> ContainerSpec:
        """The spec that a container was created from."""
        with self._changed:
            return self._engines[name].spec

    def probe(self, url: str) -> int:
        """The status of a GET of `url`. Raises OSError if no container listens there."""
        port = urlsplit(url).port
        with self._changed:
            for engine in self._engines.values():
                if engine.spec.host_port == port and engine.health is not None:
                    return engine.health
        raise ConnectionRefusedError(f"nothing listens at {url}")

    # ContainerRuntime -------------------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        return True

    def facts(self) -> RuntimeFacts:
        with self._answering():
            return RuntimeFacts(kind="fake", version="0", gpus=self._gpus, disk_free=DISK_FREE)

    def image(self, image: str) -> ImageFacts | None:
        with self._answering():
            return self._image(image)

    def images(self) -> list[ImageOnHost]:
        with self._answering():
            newest_first = reversed(self._images.items())
            return [
                ImageOnHost(reference=image, digest=facts.digest, id=facts.id, size=facts.size)
                for image, facts in newest_first
            ]

    def registry_architectures(self, image: str) -> frozenset[str]:
        with self._answering():
            published = self.published.get(image)
            arch = published is not None and published.announces_arch and published.arch
            return frozenset({arch}) if arch else frozenset()

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        with self._answering():
            published = self.published.get(image, Published())
            if published is None:
                raise ImageNotFound(image=image, detail="manifest unknown")
            return FakePull(
                image,
                published,
                stall=stall,
                pace=self._pull_pace,
                outcome=self._next_pulls.pop(0) if self._next_pulls else None,
                arrived=lambda: self._arrive(image, published),
            )

    def remove_image(self, image: str) -> None:
        with self._answering():
            facts = self._images.get(image)
            users = [engine.spec.name for engine in self._engines.values() if facts and engine.image_id == facts.id]
            if users:
                raise ImageInUse(image=image, host=self._host, users=", ".join(users))
            self._images.pop(image, None)

    def run(self, spec: ContainerSpec) -> Container:
        with self._answering():
            existing = self._engines.get(spec.name)
            if existing is not None and existing.running and existing.spec.spec_hash == spec.spec_hash:
                return existing.as_container()
            if existing is not None:
                self._kill(existing)
            image = self._check(spec)
            behaviour = self.behaviours.get(spec.image, Behaviour())
            if self._next_behaviours:
                behaviour = self._next_behaviours.pop(0)
            engine = FakeEngine(uuid.uuid4().hex, spec, behaviour, self._now, image.id)
            self._engines[spec.name] = engine
            with self._changing(spec.name):
                started = engine.as_container()
                engine.start()
            return started

    def find(self, name: str) -> Container | None:
        with self._answering():
            engine = self._engines.get(name)
            return engine.as_container() if engine else None

    def containers(self, labels: Mapping[str, str], *, sizes: bool = False) -> list[Container]:
        with self._answering():
            existing = list(self._engines.values())
            found = [engine for engine in existing if labels.items() <= engine.spec.labels.items()]
            return [engine.as_container(sizes=sizes) for engine in found]

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        with self._answering():
            return FakeLogs(self._engines.get(name), self._changed, follow=follow, tail=tail, since=since)

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        with self._answering():
            return FakeChanges(self._changed, self._changes, labels=labels, is_unavailable=lambda: self._away)

    def remove(self, name: str, *, grace: timedelta) -> None:
        with self._answering():
            engine = self._engines.get(name)
        if engine is None:
            return
        if engine.running and engine.behaviour.deaf:
            time.sleep(grace.total_seconds())
        with self._answering():
            if self._engines.get(name) is engine:
                self._kill(engine)

    def _kill(self, engine: FakeEngine) -> None:
        with self._changing(engine.spec.name):
            engine.exit(SIGKILLED)
            del self._engines[engine.spec.name]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._changed:
            if self._away:
                raise DockerUnavailable(host=self._host, detail="the fake was set to be unavailable")
            yield

    @contextmanager
    def _changing(self, name: str) -> Iterator[FakeEngine]:
        """Wakes the blocked readers on a change only: a fleet has thousands of threads that wait."""
        with self._answering():
            engine = self._engines[name]
            yield engine
            self._changes.append(engine.spec)
            self._changed.notify_all()

    def build_image(self, image: str) -> None:
        """The image is on the host, and no registry has its digest."""
        self._arrive(image, Published())
        self._images[image] = self._images[image].model_copy(update={"digest": None})

    def _image(self, image: str) -> ImageFacts | None:
        return self._images.get(image) or next((has for has in self._images.values() if has.id == image), None)

    def _arrive(self, image: str, published: Published) -> None:
        """As a real engine does, it keeps what the reference named before by its digest."""
        new = ImageFacts(
            id="sha256:" + sha256(f"id of {image} {published.version}".encode()).hexdigest(),
            digest="sha256:" + sha256(f"{image} {published.version}".encode()).hexdigest(),
            arch=published.arch or self._arch,
            size=2 * sum(published.layers),
        )
        with self._changed:
            before = self._images.pop(image, None)
            if before is not None and before != new and before.digest:
                self._images[f"{image.rpartition(':')[0]}@{before.digest}"] = before
            self._images[image] = new

    def _check(self, spec: ContainerSpec) -> ImageFacts:
        if (image := self._image(spec.image)) is None:
            raise ImageNotFound(image=spec.image, detail="No such image")
        if spec.gpus is not None and not self._gpus:
            raise GpuUnavailable(host=self._host, detail='could not select device driver "" with capabilities: [[gpu]]')
        used = {engine.spec.host_port for engine in self._engines.values() if engine.running}
        if spec.host_port in used | self.taken_ports:
            raise PortTaken(port=spec.host_port, host=self._host, holder="another container or program")
        return image
