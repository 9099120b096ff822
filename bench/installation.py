"""An installation for one bench: a Redis, an API node and a worker as real processes, removed afterwards.

It shares no state, ports or containers with other installations on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from lab.parts import eventually, free_port
from lab.redis_server import RedisServer, redis_program
from pydantic import SecretStr

from aima_api.client import Api, path_of
from aima_core.domain.hosts import HostFacts
from aima_core.errors import ApiUnavailable
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.store.hosts import HostStore
from aima_core.system.background import BackgroundLoop
from aima_core.system.die_with_parent import dying_with_parent

STARTS_WITHIN = timedelta(seconds=60)
HEARTBEAT_INTERVAL = timedelta(seconds=3)
ENDS_WITHIN_SECONDS = 10
HOST = "bench"
HOST_PORTS = "32000-32099"
"""Below the kernel's ephemeral ports, and outside AIMA's default range and that of `free_port`."""
ROUTE = "cpu.amd64"
SIGNING_KEY = SecretStr(uuid.uuid4().hex)
_FACTS = {
    "identity": "said to be",
    "arch": "amd64",
    "address": "127.0.0.1",
    "cores": 1024,
    "memory": 1 << 50,
    "disk_free": 1 << 50,
    "runtime": "fake",
    "runtime_version": "1",
    "ports": (20000, 29999),
    "version": "0",
}


class Installation:
    def __init__(self, api: Api, name: str, *, url: str, redis_url: str, api_pid: int) -> None:
        self.name = name
        self.url = url
        self.redis_url = redis_url
        self.api_pid = api_pid
        self._api = api

    def events_of(self, id: str) -> str:
        return f"{self.url}{path_of('operations', id, 'events')}"

    def submit(self, path: str, body: dict[str, Any] | None = None) -> str:
        """A POST that submits one operation; returns its id."""
        (operation,) = self._api.post(path, body)["operations"]
        return str(operation["id"])

    def seconds_until(self, phase: str, path: str, body: dict[str, Any] | None = None) -> float:
        """Seconds from the POST until a follower receives the phase. Raises RuntimeError on another end."""
        began = time.perf_counter()
        id = self.submit(path, body)
        with self._api.stream(path_of("operations", id, "events"), after=0) as events:
            for event in events:
                said = json.loads(event.data)
                if said["phase"] == phase:
                    return time.perf_counter() - began
                if event.event == "end":
                    break
        raise RuntimeError(f"{path} came to another end than {phase}: {said}")

    def wait_for_end(self) -> None:
        """Waits until no operation is active."""
        if not eventually(self._is_at_rest, within=STARTS_WITHIN):
            raise RuntimeError("an operation of the bench does not end")

    def has_a_host(self) -> bool:
        with suppress(ApiUnavailable):
            return any(host["live"] for host in self._api.get("/v1/hosts")["items"])
        return False

    def _is_at_rest(self) -> bool:
        newest = self._api.get("/v1/operations", limit=1)["items"]
        return all(operation["state"] not in ("queued", "running") for operation in newest)


@contextmanager
def installation(*, hosts: int = 0, signed: bool = True) -> Iterator[Installation]:
    """A running installation; its processes and records are removed afterwards.

    With `hosts`, that many hosts are simulated by records, and no operation is executed. One that is not `signed`
    neither signs, verifies nor writes fences.
    """
    name = f"b{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="aima-bench-")))
        redis = stack.enter_context(own_redis(directory))
        port = free_port()
        environment = os.environ | settings_of(name, directory, redis_url=redis.url, port=port)
        if hosts:
            stack.enter_context(_simulated(command_link(redis.url), hosts))
        modules = ("aima_api",) if hosts else ("aima_api", "aima_worker")
        python = [sys.executable, "-m", *([] if signed else ["bench.unsigned"])]
        pids = [
            stack.enter_context(process([*python, module], environment, log=directory / f"{module}.log"))
            for module in modules
        ]
        url = f"http://127.0.0.1:{port}"
        made = Installation(stack.enter_context(Api(url)), name, url=url, redis_url=redis.url, api_pid=pids[0])
        if not eventually(made.has_a_host, within=STARTS_WITHIN):
            raise RuntimeError(f"no installation within {STARTS_WITHIN.seconds} s:\n{_said(directory)}")
        yield made


@contextmanager
def own_redis(directory: Path) -> Iterator[RedisServer]:
    program = redis_program()
    if program is None:
        raise RuntimeError("there is no Redis server; `apt-get install redis-server` brings one")
    server = RedisServer(program, directory, launcher=dying_with_parent(signal.SIGTERM), appendfsync="everysec")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def settings_of(name: str, directory: Path, *, redis_url: str, port: int) -> dict[str, str]:
    return {
        "AIMA_CONFIG": os.devnull,  # settings of this machine must not affect the result
        "AIMA_STATE_DIR": str(directory / "state"),
        "AIMA_INSTALLATION": name,
        "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
        "AIMA_RUNTIME": "docker",
        "AIMA_REDIS__URL": redis_url,
        "AIMA_API__PORT": str(port),
        "AIMA_API__CONNECTIONS_PER_ADDRESS": "4096",  # all load comes from this machine
        "AIMA_HOST__NAME": HOST,
        "AIMA_HOST__PORTS": HOST_PORTS,
    }


def facts_of(number: int) -> HostFacts:
    """The facts of a simulated host."""
    return HostFacts.model_validate({**_FACTS, "name": f"host-{number}", "routes": [f"host.host-{number}", ROUTE]})


@contextmanager
def _simulated(redis: TextRedis, hosts: int) -> Iterator[None]:
    """Hosts that stay live during the block."""
    names = [facts_of(number).name for number in range(hosts)]
    for number in range(hosts):
        HostStore(redis).announce(facts_of(number))

    def beat() -> None:
        redis.zadd(keys.HOSTS_SEEN, dict.fromkeys(names, time.time()))

    heartbeat = BackgroundLoop("simulated heartbeats", beat, interval=HEARTBEAT_INTERVAL)
    heartbeat.start()
    try:
        yield
    finally:
        heartbeat.stop()
        redis.close()


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str], *, log: Path) -> Iterator[int]:
    """Runs a program during the block; yields its process id."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*dying_with_parent(signal.SIGTERM), *command],
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C ends the bench, which then stops its processes
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process over all cores."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _said(directory: Path) -> str:
    return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in directory.glob("*.log"))
