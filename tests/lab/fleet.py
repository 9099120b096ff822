"""A fleet: hundreds of hosts in a few processes, each a complete worker with a fake runtime, on one Redis.

Containers are read from the processes, never from the records. Each host has a loopback address of its own, so
that all can lease the same ports. A frozen process answers no request.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import select
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import IO, Any

from lab.commands import SIGNING_KEY
from lab.fleet_runtime import kept_running
from lab.forked import Process, launch
from lab.parts import eventually

TESTS = Path(__file__).parents[1]
UP_WITHIN = timedelta(seconds=120)
ENDS_WITHIN = timedelta(seconds=60)
ANSWERS_WITHIN = timedelta(seconds=60)
IMAGE = "fleet:1"
ARCH = "arm64" if platform.machine() in ("aarch64", "arm64") else "amd64"


class Cannot(Exception):
    """The request is impossible now: the container was removed, or the engine is unavailable."""


@dataclass(frozen=True)
class FakeHost:
    name: str
    slots: int = 4
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Override the machine's facts: see FactsOverride."""
    images: tuple[str, ...] = (IMAGE,)
    """The images that are present."""
    engines: tuple[str, ...] = (IMAGE,)
    """The images whose containers load for a while."""
    pull_pace: timedelta = timedelta()
    loads_for: timedelta = timedelta(milliseconds=100)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """More settings of the section `host`."""


def fleet_engine(type: str, *, image: str) -> str:
    """A catalog entry that any host of a fleet can run."""
    return f"""\
name: {type}-cpu
type: {type}
image: {image}
command: [serve]
port: 8000
health_check:
  timeout: 1m
requires:
  platforms: [linux/arm64, linux/amd64]
  memory: 10MB
"""


def fake_hosts(number: int, **how: Any) -> list[FakeHost]:
    return [FakeHost(f"fake-{index:03d}", **how) for index in range(number)]


class FleetProcess:
    """One of the fleet's processes and its hosts."""

    def __init__(self, hosts: Sequence[Mapping[str, Any]], directory: Path, *, name: str) -> None:
        self.name = name
        self.hosts = [str(host["settings"]["host"]["name"]) for host in hosts]
        self._kept = [Path(host["kept_in"]) for host in hosts if host["kept_in"]]
        self._file = directory / f"{name}.json"
        self._log = directory / f"{name}.log"
        self._file.write_text(json.dumps(hosts))
        self._numbers = count(1)
        self._process: Process | None = None
        self._questions: IO[str] | None = None
        self._answers: IO[str] | None = None

    @property
    def up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._the_process().pid

    @property
    def ended_by(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs."""
        return self._the_process().poll()

    def start(self) -> None:
        """Starts it; its hosts consume operations once `is_ready`."""
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "AIMA_CONFIG": os.devnull}
        (asked, questions), (answers, answered) = os.pipe(), os.pipe()
        with self._log.open("ab") as log, os.fdopen(asked, "rb") as stdin, os.fdopen(answered, "wb") as stdout:
            streams = {"stdin": stdin, "stdout": stdout, "stderr": log}
            self._process = launch("lab.fleet_process", self._file, env=environment, **streams)
        self._questions, self._answers = os.fdopen(questions, "w"), os.fdopen(answers)

    def is_ready(self) -> bool:
        return int(self.ask("ready")) == len(self.hosts)

    def kill(self) -> None:
        """SIGKILL. Its containers are lost with it unless the fleet keeps them."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: its hosts leave."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Returns once it is frozen: until then it could receive and claim what the test submits next."""
        self._the_process().send_signal(signal.SIGSTOP)
        assert eventually(lambda: _is_frozen(self.pid), within=ANSWERS_WITHIN)

    def thaw(self) -> None:
        self._the_process().send_signal(signal.SIGCONT)

    def running(self) -> dict[str, list[str]]:
        """The names of the containers that run on each of its hosts, up or kept."""
        if self.up:
            reported: dict[str, list[str]] = self.ask("running")
            return reported
        return {file.stem: kept_running(file)[0] for file in self._kept}

    def made(self) -> Counter[str]:
        """How often a container of each name was created."""
        if self.up:
            return Counter(self.ask("made"))
        return sum((Counter(kept_running(file)[1]) for file in self._kept), Counter())

    def containers(self) -> dict[str, list[list[Any]]]:
        """The containers of each of its hosts: name, status, port."""
        reported: dict[str, list[list[Any]]] = self.ask("containers")
        return reported

    def created(self) -> dict[str, list[dict[str, Any]]]:
        """What each container of each of its hosts was created with: operation, service, image, command, mounts, at."""
        reported: dict[str, list[dict[str, Any]]] = self.ask("created")
        return reported

    def holds(self) -> dict[str, Any]:
        """The names of its threads except those of pools, and the number of descriptors."""
        reported: dict[str, Any] = self.ask("holds")
        return reported

    def container_engine_is(self, host: str, *, away: bool) -> None:
        self.ask("away", host=host, is_away=away)

    def crash(self, host: str, container: str) -> None:
        self.ask("crash", host=host, container=container)

    def remove(self, host: str, container: str) -> None:
        """Without the worker."""
        self.ask("remove", host=host, container=container)

    def squat(self, host: str, port: int) -> None:
        self.ask("squat", host=host, port=port)

    def make_way(self, host: str, port: int) -> None:
        """Release a squatted port."""
        self.ask("make_way", host=host, port=port)

    def ask(self, question: str, **reported: Any) -> Any:
        """Raises Cannot if the request is impossible, and AssertionError with the end of its log without an answer."""
        number = next(self._numbers)
        questions, answers = self._questions, self._answers
        assert questions and answers, f"{self._file.stem} was never begun"
        questions.write(json.dumps({"number": number, "ask": question, **reported}) + "\n")
        questions.flush()
        while select.select([answers], [], [], ANSWERS_WITHIN.total_seconds())[0]:
            line = answers.readline()
            if not line:
                break
            answered = json.loads(line)
            if answered["number"] == number:
                if "cannot" in answered:
                    raise Cannot(f"{self._file.stem} cannot {question}: {answered['cannot']}")
                return answered["answer"]
        raise AssertionError(f"{self._file.stem} does not answer {question}:\n{self.log()[-2000:]}")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _the_process(self) -> Process:
        assert self._process is not None, f"{self._file.stem} was never begun"
        return self._process

    def _end(self, by: signal.Signals) -> None:
        running = self._the_process()
        running.send_signal(by)
        try:
            running.wait(ENDS_WITHIN.total_seconds())
        finally:
            running.kill()
            for pipe in (self._questions, self._answers):
                if pipe:
                    pipe.close()


class Fleet:
    def __init__(self, redis_url: str, directory: Path, *, installation: str = "fleet", kept: bool = False) -> None:
        """With `kept`, containers outlive the processes of their hosts, as real ones do."""
        self.processes: list[FleetProcess] = []
        self._redis_url = redis_url
        self._directory = directory
        self._installation = installation
        self._kept = kept

    def up(self, hosts: Sequence[FakeHost], *, processes: int) -> None:
        """Starts the hosts in that many processes, and waits until all consume operations."""
        for number in range(processes):
            self.add(hosts[number::processes])
        self.until_ready()

    def add(self, hosts: Sequence[FakeHost]) -> None:
        """Starts one more process; its hosts consume operations once it is ready."""
        _allow_connections()
        before = sum(len(process.hosts) for process in self.processes)
        described = [self._described(number, host) for number, host in enumerate(hosts, start=before)]
        process = FleetProcess(described, self._directory, name=f"process-{len(self.processes)}")
        self.processes.append(process)
        process.start()

    def until_ready(self) -> None:
        assert eventually(lambda: all(each.is_ready() for each in self.processes if each.up), within=UP_WITHIN)

    def running(self) -> dict[str, list[str]]:
        """The names of the containers that run, by host."""
        return {host: names for process in self.processes for host, names in process.running().items()}

    def made(self) -> Counter[str]:
        """How often a container of each name was created on any host."""
        return sum((process.made() for process in self.processes), Counter())

    def process_of(self, host: str) -> FleetProcess:
        return next(process for process in self.processes if host in process.hosts)

    def kill(self) -> None:
        for process in self.processes:
            if process.up:
                process.kill()

    def _described(self, number: int, host: FakeHost) -> dict[str, Any]:
        settings = {
            "redis": {"url": self._redis_url},
            "signing_key": SIGNING_KEY.get_secret_value(),
            "installation": self._installation,
            "state_dir": str(self._directory / "state" / host.name),
            "host": {
                "name": host.name,
                "address": f"127.1.{number // 250}.{number % 250 + 1}",
                "slots": host.slots,
                "facts": dict(host.facts),
                **host.settings,
            },
        }
        return {
            "settings": settings,
            "arch": host.facts.get("arch", ARCH),
            "images": host.images,
            "engines": host.engines,
            "pull_pace": host.pull_pace.total_seconds(),
            "loads_for": host.loads_for.total_seconds(),
            "kept_in": str(self._directory / f"{host.name}.room") if self._kept else None,
        }


@contextmanager
def fleet_on(redis_url: str, directory: Path, *, kept: bool = False) -> Iterator[Fleet]:
    """A fleet without hosts; killed at the end."""
    fleet = Fleet(redis_url, directory, kept=kept)
    try:
        yield fleet
    finally:
        fleet.kill()


def _is_frozen(pid: int) -> bool:
    """The whole process: its threads stop one after another."""
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # a thread has ended meanwhile
        return False
    return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}


def _allow_connections() -> None:
    """A host holds about ten descriptors, and a process inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
