"""A host that runs one service and publishes its log over a real Redis; it can leave and rejoin."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

import httpx2
from api.node import Node
from lab.commands import SIGNING_KEY, a_spec_of, an_engine, granted_to
from lab.desk import host_of
from lab.parts import eventually, free_port

from aima_api.logs.stream import LogStreams
from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.domain.operations import StartService
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.logs.protocol import LogLine
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.settings import HostSettings, Settings
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.logs.channel import LogChannel
from aima_worker.logs.collector import LogCollector
from aima_worker.logs.server import BLOCKING_TIMEOUT, LogServer
from aima_worker.node.hardware import arch
from aima_worker.operations.container_spec import container_spec
from aima_worker.runtime import ContainerRuntime, LogStream
from aima_worker.runtimes.fake.runtime import FakeRuntime

SERVICE = ServiceId("svc-tiny-dial")
IMAGE = "tiny:1"


class CountingRuntime(FakeRuntime):
    """Counts the readers of its containers' logs."""

    def __init__(self, **how: Any) -> None:
        super().__init__(images=[IMAGE], arch=arch(), **how)
        self.follows = 0
        """How often a log was opened with follow."""
        self.lines_followed = 0

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        self.follows += follow
        lines = super().logs(name, follow=follow, tail=tail, since=since)
        return _Counted(lines, self) if follow else lines


class _Counted:
    """A LogStream that counts the lines taken from it."""

    def __init__(self, lines: LogStream, runtime: CountingRuntime) -> None:
        self._lines = lines
        self._runtime = runtime

    def __iter__(self) -> Iterator[LogLine]:
        for line in self._lines:
            self._runtime.lines_followed += 1
            yield line

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class Desk:
    """One host and its records."""

    redis: TextRedis
    url: str
    host: HostContext
    clock: Callable[[], float] = time.monotonic
    """By which follows expire."""
    servers: list[LogServer] = field(default_factory=list)
    lines: list[TextRedis] = field(default_factory=list)
    """On which its servers block for requests."""

    @property
    def instance(self) -> InstanceId:
        return SERVICE.on(self.host.name)

    @property
    def container(self) -> str:
        return self.host.container_name(SERVICE)

    def join(self) -> None:
        """Starts the log threads of the host's worker."""
        self.lines.append(command_link(self.url, answers_within=BLOCKING_TIMEOUT))
        answers = LogChannel(self.redis)
        collector = LogCollector(self.host, answers, clock=self.clock)
        self.servers.append(LogServer(self.host, collector, requests=LogChannel(self.lines[-1]), answers=answers))
        self.servers[-1].start()
        hosts = HostStore(self.redis)
        hosts.announce(_facts(self.host.name))
        hosts.join(self.host.name, identity=self.host.name, session="the test's")

    def leave(self) -> None:
        self.servers.pop().stop()
        HostStore(self.redis).leave(self.host.name)

    def end(self) -> None:
        """Stops the log threads and keeps the host's records."""
        for server in self.servers:
            server.stop()
        for line in self.lines:
            line.close()

    def fall_silent(self) -> None:
        """Keeps the host live without answering log requests."""
        self.servers.pop().stop()

    def run(self, **engine: Any) -> None:
        """Runs the service's container and records it as ready."""
        command = StartService(service=SERVICE, engine=an_engine(**engine))
        self.host.runtime.run(
            container_spec(self.host, command, image=IMAGE, directory=None, port=18500, granted=granted_to(command))
        )
        self.is_now(InstanceState.READY)

    def run_image(self, image: str, script: str) -> None:
        """Runs a shell script as the service's container."""
        engine = an_engine(image=image, command=["sh", "-c", script])
        command = StartService(service=SERVICE, engine=engine)
        granted = granted_to(command)
        spec = container_spec(self.host, command, image=image, directory=None, port=free_port(), granted=granted)
        self.host.runtime.run(spec)
        self.is_now(InstanceState.READY)

    def is_now(self, state: InstanceState, **more: Any) -> None:
        instance = Instance(id=self.instance, desired=Desired.RUNNING, fence=1, state=state, since=now(), **more)
        services = self.host.services
        services.put(a_spec_of(SERVICE))
        services.set_desired(instance)
        services.update_status(instance)

    def is_ready_again(self) -> None:
        """Restores the records that Redis may have lost."""
        self.is_now(InstanceState.READY)
        hosts = HostStore(self.redis)
        hosts.announce(_facts(self.host.name))
        hosts.join(self.host.name, identity=self.host.name, session="the test's")

    def stop(self, *, grace: timedelta = timedelta(0)) -> None:
        self.host.runtime.remove(self.container, grace=grace)
        self.is_now(InstanceState.STOPPED)

    def remove_container(self) -> None:
        self.host.runtime.remove(self.container, grace=timedelta(0))


@contextmanager
def a_desk(
    redis_url: str, runtime: ContainerRuntime, *, name: str = "alpha", installation: str = "test", **how: Any
) -> Iterator[Desk]:
    settings = Settings(
        signing_key=SIGNING_KEY,
        installation=installation,
        host=HostSettings.model_validate({"name": name, "ports": "18500-18599"}),
    )
    redis = command_link(redis_url)
    with closing(redis), host_of(settings, redis, runtime) as host:
        desk = Desk(redis, redis_url, host, **how)
        try:
            desk.join()
            yield desk
        finally:
            desk.end()


class Reader:
    """A follower's stream, read up to a given line, note or end."""

    def __init__(self, events: Iterator[httpx2.ServerSentEvent]) -> None:
        self._events = events
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.data: list[dict[str, Any]] = []
        self.ended = False

    def until_line(self, text: str) -> list[str]:
        """All lines up to this one; fails if it does not arrive."""
        while text not in self.lines:
            assert self._step(), f"it ended before {text!r} came; so far {self.lines[-5:]}, {self.notes}"
        return self.lines

    def until_lines(self, count: int) -> list[str]:
        while len(self.lines) < count:
            assert self._step(), f"it ended after {len(self.lines)} lines, {self.notes}"
        return self.lines

    def until_note(self, part: str) -> str:
        while not any(part in note for note in self.notes):
            assert self._step(), f"it ended before a note of {part!r}: {self.notes}"
        return next(note for note in self.notes if part in note)

    def until_end(self) -> list[str]:
        while self._step():
            pass
        assert self.ended, "the stream was cut"
        return self.lines

    def _step(self) -> bool:
        event = next(self._events, None)
        if event is None:
            return False
        data = json.loads(event.data)
        if event.event == "line":
            self.lines.append(data["text"])
            self.data.append(data)
        elif event.event == "note":
            self.notes.append(data["text"])
        self.ended = self.ended or event.event == "end"
        return not self.ended


def log_streams(node: Node, **timing: timedelta) -> None:
    """Replaces the node's log streams by ones with other timeouts."""
    state = node.server.config.app.state
    logs = LogStreams(state.dependencies.logs.fanout, state.dependencies.logs._history, **timing)
    state.dependencies = replace(state.dependencies, logs=logs)


@contextmanager
def following(node: Node, **asked: Any) -> Iterator[Reader]:
    path = f"/v1/services/{SERVICE}/logs"
    with node.client.sse(path, params={"follow": "true", **asked}) as stream:
        assert stream.response.status_code == 200, stream.response.read()
        yield Reader(iter(stream))


def said(node: Node, **asked: Any) -> tuple[list[str], list[str]]:
    """The lines and notes of one response without follow."""
    answer = node.get(f"/v1/services/{SERVICE}/logs", params=asked)
    assert answer.status_code == 200, answer.text
    return [item["text"] for item in answer.json()["items"]], answer.json()["notes"]


def until_kept(desk: Desk, text: str) -> None:
    """Waits until the host has stored the line among its last lines."""
    from aima_core.redis import keys

    kept = eventually(
        lambda: text in (desk.redis.get(keys.last_lines(desk.instance)) or ""), within=timedelta(seconds=60)
    )
    assert kept, f"{text!r} is not kept"


def say(desk: Desk, *lines: str, pause: float = 0) -> None:
    runtime = desk.host.runtime
    assert isinstance(runtime, FakeRuntime)
    for line in lines:
        runtime.say(desk.container, line)
        time.sleep(pause)


def _facts(name: HostName) -> HostFacts:
    return HostFacts.model_validate(
        {
            "name": name,
            "identity": f"identity of {name}",
            "arch": "amd64",
            "address": "127.0.0.1",
            "cores": 2,
            "memory": 4 << 30,
            "disk_free": 10 << 30,
            "runtime": "fake",
            "runtime_version": "1",
            "ports": (18500, 18599),
            "routes": (f"host.{name}",),
            "version": "0",
        }
    )
