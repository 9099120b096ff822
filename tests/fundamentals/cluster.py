"""A cluster in this process: an API node, hosts with fake container engines, and a fake Redis.

No queue and no loop runs: `host.execute(operation)` stands for the delivery of a message to the host's worker,
`host.reconcile()` for a pass of its reconcile loop, `api.run_controllers()` for a pass of an API node's controllers.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from datetime import timedelta
from itertools import count
from typing import Any

import fakeredis
import httpx2
from lab.desk import Desk, Outcome

from aima_api.controllers.failure_detector import VisibilityWindow
from aima_api.submission.starts import StartSubmission
from aima_core.domain.ids import OperationId, Route, ServiceId
from aima_core.domain.operations import Command, Operation, Phase
from aima_core.domain.services import Instance, InstanceState
from aima_core.redis import keys
from aima_worker.node.facts import host_facts
from aima_worker.node.hardware import arch
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtime import Container
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.runtime import FakeRuntime

ANY_HOST = Route(f"cpu.{arch()}")
"""The queue that every host of this machine's architecture takes messages from."""
LOADING = Behaviour(answers=False)
"""An engine that runs and does not answer its health check yet."""


class Host:
    """A host: its worker's steps, a fake container engine, and its records in Redis."""

    def __init__(self, desk: Desk, runtime: FakeRuntime, redis: fakeredis.FakeRedis) -> None:
        self.name = desk.host.name
        self.runtime = runtime
        self._desk = desk
        self._redis = redis
        self._loop = ReconcileLoop(desk.host)

    def join(self) -> None:
        """Announces the host, on which the engines that come with AIMA were built, and records a heartbeat."""
        self.runtime.build_image("aima/dial:1")
        self._desk.host.hosts.announce(host_facts(self._desk.host.settings, self.runtime))
        self._desk.host.hosts.join(self.name, identity=self.name, session="first")

    def beat(self) -> None:
        """Records a heartbeat: a test that lasts longer than HOST_DEAD needs more than the first one."""
        self._desk.host.hosts.heartbeat(self.name, identity=self.name, session="first")

    def announce_labels(self, **labels: str) -> None:
        """As with other settings after a restart of the worker."""
        facts = host_facts(self._desk.host.settings, self.runtime)
        self._desk.host.hosts.announce(facts.model_copy(update={"labels": labels}))

    def submit(self, command: Command, *, route: Route | None = None) -> OperationId:
        """Enqueues a command for this host, or for every host of a route."""
        return self._desk.ask(command, route=route)

    def execute(self, operation: OperationId | Command) -> Outcome:
        """Delivers an operation to the worker, and returns its outcome."""
        if isinstance(operation, str):
            return self._desk.finish(operation)
        return self._desk.run_command(operation)

    def begin(
        self, command: Command, *, until: Phase, route: Route | None = None
    ) -> tuple[OperationId, Future[Outcome]]:
        """Executes a command in a thread; returns once it has reached the phase."""
        operation, outcome = self._desk.begin(command, route=route)
        self._desk.until_phase(operation, until)
        return operation, outcome

    def cancel(self, operation: OperationId) -> None:
        self._desk.host.operations.request_cancel(operation)

    def reconcile(self) -> None:
        self._loop.reconcile_once()

    def notice_lost_data(self) -> None:
        """As at the first heartbeat to a Redis that has lost its data."""
        self._loop.on_redis_reset()

    def fall_silent(self) -> None:
        """As Redis sees a host whose network is cut: its last heartbeat is old, and its claims have expired."""
        self._redis.zadd(keys.HOSTS_SEEN, {self.name: self._redis.time()[0] - 1000})
        for operation in self._redis.zrange(keys.ACTIVE, 0, -1):
            self._redis.delete(keys.claim(OperationId(operation)))

    def operation(self, id: OperationId) -> Operation:
        return self._desk.host.operations.get(id)

    def instance(self, service: str) -> Instance:
        found = self._desk.host.services.instance(ServiceId(service).on(self.name))
        assert found is not None, f"{service} has no record on {self.name}"
        return found

    def state(self, service: str) -> InstanceState:
        return self.instance(service).state

    def container(self, service: str) -> Container | None:
        return self.runtime.find(self.container_name(service))

    def container_name(self, service: str) -> str:
        return self._desk.host.container_name(ServiceId(service))

    def containers(self) -> list[str]:
        return self._desk.containers()

    def leased_ports(self) -> list[int]:
        return self._desk.leases()


class Api:
    """An API node, called over its HTTP interface without a socket."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, path: str) -> Any:
        return self._request("GET", path).json()

    def refusal(self, path: str) -> Any:
        return self._request("GET", path, refused_too=True).json()

    def start(self, service: str, **options: Any) -> OperationId:
        """Submits a start of one replica; returns the operation's id."""
        (operation,) = self._request("POST", f"/v1/services/{service}:start", options).json()["operations"]
        return OperationId(operation["id"])

    def post(self, path: str, body: Any) -> httpx2.Response:
        """The response, also to a refused request."""
        return self._request("POST", path, body, refused_too=True)

    def starts(self) -> StartSubmission:
        """What the route of a start calls, in the caller's thread."""
        starts: StartSubmission = self._app.state.dependencies.starts
        return starts

    def operation(self, id: str) -> dict[str, Any]:
        record: dict[str, Any] = self.get(f"/v1/operations/{id}")
        return record

    def operations(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get("/v1/operations")["items"]
        return items

    def run_controllers(self) -> None:
        """One pass, as though this node had watched the hosts for days."""
        days = count()
        controllers = self._app.state.controllers
        controllers.window = VisibilityWindow(interval=timedelta(days=1), clock=lambda: next(days) * 86_400.0)
        controllers.window.observe()
        controllers.run_once()

    def _request(self, method: str, path: str, body: Any = None, *, refused_too: bool = False) -> httpx2.Response:
        async def request() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self._app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, json=body)

        response = asyncio.run(request())
        assert response.is_success or refused_too, response.text
        return response
