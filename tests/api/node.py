"""A real API node in a thread, a scripted worker, and the messages on the queues."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from queue import Empty
from threading import Thread
from types import FunctionType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx2
import uvicorn.server
from lab.commands import KEYS, SIGNING_KEY
from lab.parts import eventually

from aima_api.app import Server, create_app
from aima_api.catalog import loader
from aima_api.controllers.failure_detector import VisibilityWindow
from aima_api.controllers.loop import ControllerLoop
from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import Event, Phase, StartService
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.queue.celery_app import celery_app
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_core.store.claims import Claimed, ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now
from aima_core.store.services import ServiceStore
from aima_worker.operations.managed import revision_of

SERVICE = "svc-tiny-dial"
SHOWN_ALONE = ("traffic", "inference_url")
"""Fields of a service that its listing has not."""
PORTS = (20000, 20999)
STARTS_WITHIN = timedelta(seconds=60)


def as_listed(service: Mapping[str, Any]) -> dict[str, Any]:
    """A service that was shown alone."""
    return {name: value for name, value in service.items() if name not in SHOWN_ALONE}


@dataclass(frozen=True)
class Node:
    """An API node and a client of it."""

    url: str
    client: httpx2.Client
    server: Server

    def get(self, path: str, **parts: Any) -> httpx2.Response:
        return self.client.get(path, **parts)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **parts: Any) -> httpx2.Response:
        return self.client.post(path, json=dict(body or {}), **parts)

    def start(self, service: str = SERVICE, **options: Any) -> list[dict[str, Any]]:
        """The operations of an accepted start."""
        answer = self.post(f"/v1/services/{service}:start", options)
        assert answer.status_code == 202, answer.text
        operations: list[dict[str, Any]] = answer.json()["operations"]
        return operations

    def operation(self, id: str) -> dict[str, Any]:
        record: dict[str, Any] = self.get(f"/v1/operations/{id}").json()
        return record

    @contextmanager
    def following(self, id: str | None, after: str | int | None = None) -> Iterator[Iterator[httpx2.ServerSentEvent]]:
        """The events of one operation, or of all."""
        path = f"/v1/operations/{id}/events" if id else "/v1/events"
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self.client.sse(path, headers=headers) as stream:
            assert stream.response.status_code == 200, stream.response.read()
            yield iter(stream)

    def received(self, id: str, after: int | None = None) -> list[httpx2.ServerSentEvent]:
        """All events up to the end of the stream."""
        with self.following(id, after) as stream:
            return list(stream)


async def _briefly(_: float) -> None:
    await asyncio.sleep(0.01)


_PROMPT = vars(uvicorn.server) | {"asyncio": SimpleNamespace(**vars(asyncio) | {"sleep": _briefly})}


def _prompt(method: Any) -> Any:
    """The method with another `asyncio.sleep`."""
    return FunctionType(method.__code__, _PROMPT, method.__name__, method.__defaults__)


class _Prompt(uvicorn.Server):
    main_loop = _prompt(uvicorn.Server.main_loop)
    shutdown = _prompt(uvicorn.Server.shutdown)
    _wait_tasks_to_complete = _prompt(uvicorn.Server._wait_tasks_to_complete)


class PromptServer(Server, _Prompt):
    """Looks every 10 ms whether it should exit, and whether its connections are closed; uvicorn every 100 ms."""


_read_all = loader._read_all
_read_once = cache(_read_all)


def read_shipped_once(root: Path) -> list[Any]:
    """The shipped files do not change, and reading them is most of the start of a node."""
    return [*_read_once(root)] if root == loader.SHIPPED else _read_all(root)


@contextmanager
def api_node(redis_url: str, *, trust: Mapping[str, Any] | None = None, **api: Any) -> Iterator[Node]:
    """`trust` are its keys in place of the tests' own."""
    own = trust or {"signing_key": SIGNING_KEY}
    settings = Settings.model_validate({"redis": {"url": redis_url}, "api": {"port": 0, **api}, **own})
    with patch.object(loader, "_read_all", read_shipped_once):
        server = PromptServer(create_app(settings), settings)
    thread = Thread(target=server.run, name="api node")
    thread.start()
    assert eventually(lambda: server.started or not thread.is_alive(), within=STARTS_WITHIN)
    address, port = server.servers[0].sockets[0].getsockname()[:2]
    url = f"http://{address}:{port}"
    try:
        with httpx2.Client(base_url=url, timeout=30, verify=False) as client:  # without TLS: a context costs 50 ms
            yield Node(url, client, server)
    finally:  # a failed test must not leave a thread that blocks the run's shutdown
        server.should_exit = True
        thread.join(timeout=40)
    assert not thread.is_alive(), "the API node did not end"


def controllers_of(node: Node) -> ControllerLoop:
    """The node's controller loop, with a visibility window of one day by its next pass."""
    controllers: ControllerLoop = node.server.config.app.state.controllers
    days = count()
    controllers.window = VisibilityWindow(interval=timedelta(days=1), clock=lambda: next(days) * 86_400.0)
    controllers.window.observe()
    return controllers


class ScriptedWorker:
    """A worker that records of operations what the test scripts."""

    def __init__(
        self, redis: TextRedis, name: str = "alpha", *, routes: tuple[str, ...] = ("cpu.amd64",), **facts: Any
    ) -> None:
        self.name = HostName(name)
        self._operations = OperationStore(redis)
        self._claims = ClaimStore(redis)
        self._hosts = HostStore(redis)
        self._services = ServiceStore(redis, KEYS)
        self._hosts.announce(_facts(name, (f"host.{name}", *routes), facts))
        self._hosts.join(self.name, identity=f"identity of {name}", session="the test's")

    def leave(self) -> None:
        self._hosts.leave(self.name)

    def claim(self, operation: str) -> object:
        """The result, also where the operation is not claimed."""
        return self._claims.claim(OperationId(operation), self.name)

    def claim_start(self, operation: str) -> Claimed:
        claimed = self.claim(operation)
        assert isinstance(claimed, Claimed), claimed
        return claimed

    def says(self, operation: str, phase: Phase = Phase.LOADING, **more: Any) -> int:
        number = self._operations.append_event(Event(operation=OperationId(operation), at=now(), phase=phase, **more))
        assert number, f"{operation} took no {phase}"
        return number

    def begins(self, operation: dict[str, Any]) -> None:
        """Claims a start and records its instance as starting."""
        self.claim_start(operation["id"])
        self._observes(operation, Desired.RUNNING, InstanceState.STARTING)

    def is_ready(self, operation: dict[str, Any], *, reports: bool = False, makes_current: bool = True) -> None:
        """Records a start from claim to end, and makes its spec the current one unless others of its change start.

        Only if it `reports` what it runs, as workers of this version do, the API can tell whether that is as asked.
        """
        claimed = self.claim_start(operation["id"])
        attempt, command = claimed.attempt, claimed.command
        assert isinstance(command, StartService)
        self.says(operation["id"], Phase.STARTING)
        runs = {"runs": command.digest, "revision": revision_of(command)} if reports else {}
        self._observes(operation, Desired.RUNNING, InstanceState.READY, **runs)
        if command.spec is not None and makes_current:
            self._services.restore({command.service: command.spec})
        self.says(operation["id"], Phase.READY, host=self.name, endpoint="http://127.0.0.1:20000")
        self._claims.release(OperationId(operation["id"]), self.name, attempt)

    def has_stopped(self, operation: dict[str, Any]) -> None:
        """Records a stop from claim to end."""
        attempt = self.claim_start(operation["id"]).attempt
        self.says(operation["id"], Phase.STOPPING)
        self._observes(operation, Desired.STOPPED, InstanceState.STOPPED)
        self.says(operation["id"], Phase.STOPPED)
        self._claims.release(OperationId(operation["id"]), self.name, attempt)

    def _observes(self, operation: dict[str, Any], desired: Desired, state: InstanceState, **runs: Any) -> None:
        id = ServiceId(operation["service"]).on(self.name)
        instance = Instance(id=id, desired=desired, fence=operation["fence"], state=state, since=now(), **runs)
        self._services.set_desired(instance)
        self._services.update_status(instance)


def waiting_on(redis_url: str, queue: str) -> list[str]:
    """The ids of the operations whose messages are on a queue; consumes them."""
    app = celery_app(redis_url, answer_within=timedelta(seconds=1))
    ids = []
    with app.connection_for_read() as connection, connection.SimpleQueue(queue) as messages:
        while True:
            try:
                message = messages.get(block=False)
            except Empty:
                return ids
            message.ack()
            ids.append(str(message.headers["id"]))


def events_of(received: list[httpx2.ServerSentEvent]) -> list[dict[str, Any]]:
    return [json.loads(each.data) for each in received]


def numbers(received: list[httpx2.ServerSentEvent]) -> list[int]:
    return [int(each.id) for each in received]


def _facts(name: str, routes: tuple[str, ...], facts: dict[str, Any]) -> HostFacts:
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
            "ports": PORTS,
            "routes": routes,
            "version": version("aima-engines"),
            **facts,
        }
    )
