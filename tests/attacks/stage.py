"""The stage of the adversaries: a fleet of fakes, an API node with keys, a real Redis, and an owner who uses them.

The owner starts and stops services with his own key while the adversary acts, sends requests to models through a
gateway, and keeps a record of what he asked for. Containers are read from the hosts, never from Redis. A data plane
stands in front of an engine that records what reaches it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http.client import HTTPException
from pathlib import Path
from random import Random
from threading import Event as Flag
from threading import Thread
from typing import Any, Literal

import httpx2
import psutil
from api.catalog.entries import write
from lab.api_process import ApiProcess
from lab.commands import PUBLIC_KEY
from lab.dataplane import API_NODE, INSTANCE, DataplaneUnderTest, dataplane
from lab.fleet import FakeHost, Fleet, fleet_engine, fleet_on
from lab.gateway_process import GatewayProcess
from lab.parts import eventually
from lab.redis_server import RedisServer

ADMIN_KEY = "an-owner-holds-this-key-7f3a"
IMAGE = "owned:1"
SERVICES = tuple(f"svc-owned-{number}" for number in range(4))
HOSTS = ("fake-00", "fake-01", "fake-02")
ALIAS = "owned"
TARGETS = {SERVICES[0]: 1}
RECOVERS_WITHIN = timedelta(seconds=120)
ENDED = ("succeeded", "failed", "cancelled")
MOST_MORE_DESCRIPTORS = 40
MOST_MORE_MEMORY = 100 << 20
LISTINGS = ("services", "operations", "hosts", "ports", "engines", "models")
SETTINGS = {
    "AIMA_API__KEYS": f'["{ADMIN_KEY}"]',
    "AIMA_API__MOVE_AFTER": "20s",
    "AIMA_API__REQUESTS_PER_MINUTE": "100000",
}


@dataclass
class Asked:
    """What the owner has asked for; the adversary may reach no more than that."""

    hosts: Mapping[str, str]
    """The only host of each service."""
    arguments: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The values of `--size` of each service."""
    stopped: dict[str, float] = field(default_factory=dict)
    """When the last stop of each operation's service had succeeded, by start operation."""
    starts: dict[str, str] = field(default_factory=dict)
    """The service of each start operation."""


class AttackStage:
    def __init__(
        self,
        fleet: Fleet,
        api: ApiProcess,
        server: RedisServer,
        gateway: GatewayProcess,
        plane: DataplaneUnderTest,
        *,
        directory: Path,
    ) -> None:
        self.fleet, self.api, self.server, self.directory = fleet, api, server, directory
        self.gateway, self.plane = gateway, plane
        self.owner = httpx2.Client(
            base_url=api.url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, timeout=20, trust_env=False
        )
        self.asked = Asked({service: HOSTS[at % len(HOSTS)] for at, service in enumerate(SERVICES)})
        self.mishaps: list[str] = []
        self.others_may: Literal["operate", "admin"] | None = None
        """What the adversary may do: start what the catalog offers on any host; or run any image."""
        self._of_others: dict[str, set[str]] = {"operate": set(), "admin": set()}
        """The operations that such an adversary has requested: whoever writes in Redis may repeat them later."""
        self.secrets = [ADMIN_KEY, gateway.key]
        """Keys that must reach no forger."""
        infer = self.owner.post("/v1/keys", json={"name": "applications", "scopes": ["infer"]}).json()["key"]
        self.secrets.append(infer)
        self.application = httpx2.Client(
            base_url=gateway.url, headers={"Authorization": f"Bearer {infer}"}, timeout=20, trust_env=False
        )
        self._enough = Flag()
        self._before = self._held()

    def begin(self) -> None:
        """Before another adversary acts: what has been found is not of it, and leaks are those from here on."""
        self.mishaps.clear()
        self._before = self._held()

    # The owner --------------------------------------------------------------------------------------------------

    @contextmanager
    def owner_at_work(self, seed: int) -> Iterator[None]:
        self._enough.clear()
        thread = Thread(target=self._work, args=(Random(seed),), name="owner", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._enough.set()
            thread.join(90)

    def _work(self, random: Random) -> None:
        while not self._enough.is_set():
            service = random.choice(SERVICES)
            match random.random():
                case chance if chance < 0.5:
                    self.start(service, size=random.randrange(1000))
                case chance if chance < 0.8:
                    self.stop(service)
                case chance if chance < 0.9:
                    self.infer(random.choice([ALIAS, service]))
                case _:
                    self.set_alias()
            self._enough.wait(random.uniform(0.05, 0.4))

    def start(self, service: str, *, size: int) -> list[str]:
        """The ids of the operations; none if the request was refused."""
        self.asked.arguments[service].add(str(size))
        body = {"hosts": [self.asked.hosts[service]], "arguments": {"size": size}}
        ids = self._request(f"/v1/services/{service}:start", body)
        if not ids and self._request("/v1/services", {"id": service, **body}) == []:  # where its spec was forged
            ids = self._request(f"/v1/services/{service}:start", body)
        self.asked.starts |= dict.fromkeys(ids, service)
        return ids

    def stop(self, service: str) -> list[str]:
        starts = [id for id, of in self.asked.starts.items() if of == service and id not in self.asked.stopped]
        ids = self._request(f"/v1/services/{service}:stop", {"grace": "1s"})
        if ids and self._ended(ids, within=timedelta(seconds=5)) == {"succeeded"}:
            self.asked.stopped |= dict.fromkeys(starts, time.time())
        return ids

    def infer(self, model: str) -> None:
        """Its answer is nobody's concern: engines of fakes have no port, and a forged one answers anything."""
        with suppress(httpx2.TransportError):
            answer = self.application.post("/v1/chat/completions", json={"model": model, "messages": []})
            self.note_answer(answer, of="an application")

    def set_alias(self) -> bool:
        with suppress(httpx2.TransportError):
            return self.owner.put(f"/v1/aliases/{ALIAS}", json={"targets": TARGETS}).status_code == 200
        return False

    def _request(self, path: str, body: Mapping[str, Any]) -> list[str]:
        try:
            answer = self.owner.post(path, json=dict(body))
        except httpx2.TransportError:
            return []
        self.note_answer(answer, of="the owner")
        return [each["id"] for each in answer.json().get("operations", ())] if answer.status_code == 202 else []

    def _ended(self, ids: Sequence[str], *, within: timedelta) -> set[str]:
        states: set[str] = set()

        def all_ended() -> bool:
            nonlocal states
            try:
                answers = [self.owner.get(f"/v1/operations/{id}") for id in ids]
            except httpx2.TransportError:
                return False
            states = {each.json().get("state", "?") for each in answers if each.status_code == 200}
            return len(states) > 0 and states <= set(ENDED)

        eventually(all_ended, within=within)
        return states

    # What must hold ---------------------------------------------------------------------------------------------

    def note_answer(self, answer: httpx2.Response, *, of: str) -> None:
        if answer.status_code == 500:
            self.mishaps.append(
                f"{of}: {answer.request.method} {answer.request.url.path} was answered {answer.text[:300]}"
            )

    def violations(self) -> list[str]:
        """While or after the adversary acts: crashes, leaks, and containers beyond what the owner asked for."""
        found = list(self.mishaps)
        found += [
            f"{each.name} ended with {each.ended_by}: {each.log()[-6000:]}"
            for each in self.fleet.processes
            if not each.up
        ]
        if not psutil.pid_exists(self.api.pid) or not eventually(self.api.answers, within=RECOVERS_WITHIN):
            found.append("the API node does not answer")
        if not eventually(self.gateway.answers, within=RECOVERS_WITHIN):
            found.append(f"the gateway does not answer: {self.gateway.log()[-6000:]}")
        if not eventually(self._plane_serves, within=RECOVERS_WITHIN):
            found.append("the data plane does not forward a request with a token")
        found += [problem for host, each in self._created() if (problem := self._not_asked(host, each))]
        return found + self._leaks()

    def _plane_serves(self) -> bool:
        with suppress(OSError, HTTPException):
            return self.plane.request(f"/i/{INSTANCE}/echo")[0] == 200
        return False

    def _created(self) -> list[tuple[str, dict[str, Any]]]:
        live = [process for process in self.fleet.processes if process.up]
        return [(host, each) for process in live for host, many in process.created().items() for each in many]

    def _not_asked(self, host: str, created: Mapping[str, Any]) -> str | None:
        if self._others_may("admin", created["operation"]):
            return None
        service, command = created["service"], list(created["command"])
        if created["image"] != IMAGE or created["mounts"] or command[:2] != ["serve", "--size"]:
            return f"{host} ran what no engine of the catalog is: {created}"
        if self._others_may("operate", created["operation"]):
            return None
        if command[2] not in self.asked.arguments[service]:
            return f"{host} ran what the owner never asked for: {created}"
        if self.asked.hosts.get(service) != host:
            return f"{host} ran {service}, which belongs on {self.asked.hosts.get(service)}"
        stopped = self.asked.stopped.get(created["operation"])
        if stopped is not None and created["at"] > stopped + 0.5:
            return f"{host} ran the start {created['operation']} again {created['at'] - stopped:.1f} s after its stop"
        return None

    def _others_may(self, scope: str, operation: str) -> bool:
        return self.others_may in (scope, "admin") or operation in self._of_others[scope] | self._of_others["admin"]

    def violations_of_memory(self) -> list[str]:
        """Also while the adversary holds on to what it has opened."""
        return [
            f"{name} has {memory >> 20} MiB, before {self._before[name][1] >> 20} MiB"
            for name, (_, memory) in self._held().items()
            if memory > self._before[name][1] + MOST_MORE_MEMORY
        ]

    def _leaks(self) -> list[str]:
        def leaks() -> list[str]:
            return self.violations_of_memory() + [
                f"{name} holds {descriptors} descriptors, before {self._before[name][0]}"
                for name, (descriptors, _) in self._held().items()
                if descriptors > self._before[name][0] + MOST_MORE_DESCRIPTORS
            ]

        eventually(lambda: not leaks(), within=RECOVERS_WITHIN)
        return leaks()

    def _held(self) -> dict[str, tuple[int, int]]:
        pids = {each.name: each.pid for each in self.fleet.processes if each.up}
        pids |= {"the API node": self.api.pid, "the gateway": self.gateway.pid}
        if self.plane.process is not None:
            pids["the data plane"] = self.plane.process.pid
        processes = {name: psutil.Process(pid) for name, pid in pids.items() if psutil.pid_exists(pid)}
        return {name: (each.num_fds(), each.memory_info().rss) for name, each in processes.items()}

    def denials(self) -> list[str]:
        """After the adversary has left: what the owner still cannot do."""
        found = []
        if self.others_may is not None:
            self._undo_operations(self.others_may)
        if not eventually(self._all_listings, within=RECOVERS_WITHIN):
            found.append("a listing is refused")
        if not eventually(self._models_are_listed, within=RECOVERS_WITHIN):
            found.append("the gateway does not list models to an application")
        dead = [each for each in SERVICES if not eventually(partial(self._lives, each), within=RECOVERS_WITHIN)]
        if not eventually(self.set_alias, within=RECOVERS_WITHIN):
            found.append("an alias is not set")
        return found + [f"{service} neither starts nor stops" for service in dead]

    def _undo_operations(self, scope: str) -> None:
        """An operator may drain hosts and change specs: the owner resumes them, and creates his services again."""
        for host in HOSTS:
            self.owner.post(f"/v1/hosts/{host}:resume", json={})
        for service in self._listed("services"):
            self.stop(service["id"])
            self.owner.delete(f"/v1/services/{service['id']}")
        for operation in self._listed("operations", state="queued") + self._listed("operations", state="running"):
            self._ended([operation["id"]] if self._cancelled(operation["id"]) else [], within=timedelta(seconds=5))
        if scope == "admin":
            pulls = self._request("/v1/images:pull", {"image": IMAGE, "hosts": [*HOSTS]})
            self._ended(pulls, within=RECOVERS_WITHIN)
        self._of_others[scope] |= {each["id"] for each in self._listed("operations")} - self.asked.starts.keys()
        self.others_may = None

    def _listed(self, what: str, **having: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.owner.get(f"/v1/{what}", params={"limit": 1000, **having}).json()["items"]
        return items

    def _cancelled(self, operation: str) -> bool:
        return self.owner.post(f"/v1/operations/{operation}:cancel").status_code == 202

    def _models_are_listed(self) -> bool:
        with suppress(httpx2.TransportError):
            return self.application.get("/v1/models").status_code == 200
        return False

    def _all_listings(self) -> bool:
        try:
            return all(self.owner.get(f"/v1/{what}").status_code == 200 for what in LISTINGS)
        except httpx2.TransportError:
            return False

    def _lives(self, service: str) -> bool:
        within = timedelta(seconds=15)
        started = self._ended(ids, within=within) if (ids := self.start(service, size=1)) else set()
        stopped = self._ended(ids, within=within) if (ids := self.stop(service)) else set()
        return started == stopped == {"succeeded"}


@contextmanager
def attack_stage(server: RedisServer, directory: Path) -> Iterator[AttackStage]:
    engine = fleet_engine("owned", image=IMAGE) + "serves: [chat]\narguments:\n  size: 0\n"
    write(directory / "catalog/engines/owned/owned-cpu.yaml", engine)
    api = ApiProcess(server.url, directory, catalog=directory / "catalog", **SETTINGS)
    with ExitStack() as stack:
        fleet = stack.enter_context(fleet_on(server.url, directory))
        stack.callback(api.client.close)
        stack.callback(api.kill)
        api.up()
        for name in HOSTS:
            fleet.add([FakeHost(name, images=(IMAGE,), engines=(IMAGE,))])
        keys = {"key": _gateway_key(api), "api_key": ADMIN_KEY}
        gateway = GatewayProcess(server.url, api.url, directory, **keys, AIMA_GATEWAY__WAIT="2s")
        stack.callback(gateway.kill)
        gateway.up()
        plane = stack.enter_context(dataplane(directory / "plane"))
        plane.end()
        plane.start(keys=(API_NODE.public, PUBLIC_KEY))
        fleet.until_ready()
        stage = AttackStage(fleet, api, server, gateway, plane, directory=directory)
        stack.callback(stage.application.close)
        stack.callback(stage.owner.close)
        for service in SERVICES:
            assert eventually(partial(stage._lives, service), within=RECOVERS_WITHIN), service
        for fact in (stage.set_alias, stage._models_are_listed, stage._plane_serves):
            assert eventually(fact, within=RECOVERS_WITHIN), fact
        stage.begin()
        yield stage


def _gateway_key(api: ApiProcess) -> str:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    created = api.client.post("/v1/keys", json={"name": "gateway", "scopes": ["gateway"]}, headers=headers)
    assert created.status_code == 201, created.text
    return str(created.json()["key"])
