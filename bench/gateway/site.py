"""Redis, an API node, a data plane, engines and a gateway as processes of their own, with keys and metrics on."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from lab.gateways import Fleet
from lab.parts import eventually, free_port
from lab.redis_server import RedisServer

from aima_api.access.keys import KeyOptions, KeyStore
from aima_api.access.scopes import Scope
from aima_core.domain.ids import HostName, InstanceId
from aima_core.redis.connection import command_link
from aima_core.system.die_with_parent import dying_with_parent
from aima_core.trust.keys import KeyRing, SigningKey
from aima_worker.dataplane.files import Config, EngineAddresses
from bench.gateway.clients import MODEL, Load, serves
from bench.installation import ENDS_WITHIN_SECONDS, SIGNING_KEY, STARTS_WITHIN, own_redis, process, settings_of

SERVES_WITHIN = timedelta(minutes=2)
FAR_MODEL = "far"
"""Reached through a data plane."""
HOSTS = ("alpha", "beta")
_FAR = InstanceId(f"svc-tiny-{FAR_MODEL}@alpha")
_ENGINE = Path(__file__).with_name("engine.py")
_ADMIN = secrets.token_hex(16)
_TOKENS = re.compile(r"^aima_gateway_tokens_total\{(.*)\} (\S+)$", re.MULTILINE)


class Program:
    """A process that is ended and started again."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self._command = command
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = [*dying_with_parent(signal.SIGTERM), *self._command]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(ENDS_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class EngineProcess(Program):
    def __init__(self, directory: Path, name: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__([sys.executable, str(_ENGINE), str(self.port)], directory / f"{name}.log")

    def start(self) -> None:
        super().start()
        if not eventually(lambda: bool(_answer(f"{self.url}/health")), within=STARTS_WITHIN):
            raise RuntimeError("the bench's engine does not start")

    def counts(self) -> dict[str, int]:
        counted: dict[str, int] = json.loads(_answer(f"{self.url}/counts"))
        return counted


class Site:
    def __init__(self, directory: Path, redis: RedisServer, engines: Sequence[EngineProcess]) -> None:
        self.redis = redis
        self.engines = engines
        """One of each host; the first alone serves FAR_MODEL."""
        self.key = ""
        self.pid = 0
        """Of the gateway."""
        port, api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = os.environ | settings_of("bench", directory, redis_url=redis.url, port=api_port)
        self.environment = environment | {
            "AIMA_API__KEYS": json.dumps([_ADMIN]),
            "AIMA_GATEWAY__PORT": str(port),
            "AIMA_GATEWAY__API": json.dumps([f"http://127.0.0.1:{api_port}"]),
            "AIMA_GATEWAY__KEY": _ADMIN,
            "AIMA_GATEWAY__CONNECTIONS_PER_ADDRESS": "4096",  # all load comes from this machine
            "AIMA_GATEWAY__RUNNING": "2000",
        }
        self.api = Program([sys.executable, "-m", "aima_api"], directory / "api.log", self.environment)
        self._api_url = f"http://127.0.0.1:{api_port}"
        self._link = command_link(redis.url)
        self._fleet = Fleet(self._link)

    def serve(self, number: int) -> None:
        """Records the engine's instance as ready."""
        self._fleet.serves(self.engines[number], _instance(number), names=(MODEL,))

    def drain(self, number: int) -> None:
        self._fleet.stops(_instance(number))

    def serve_far(self, dataplane: str) -> None:
        self._fleet.serves(self.engines[0], _FAR, names=(FAR_MODEL,), dataplane=dataplane, loopback="f" * 16)

    def create_key(self) -> None:
        signer = SigningKey(SIGNING_KEY)
        options = KeyOptions(name="bench", scopes=(Scope.INFER,))
        store = KeyStore(self._link, KeyRing([signer.public]))
        self.key, _ = store.create(options, expires=None, by="bench", signing_key=signer)

    def wait_for_api(self) -> None:
        _await(lambda: bool(_answer(f"{self._api_url}/readyz")), "the API node")

    def wait_for(self, model: str) -> None:
        _await(lambda: serves(Load(self.url, model, self.key)), f"the gateway's model {model}")

    def uses(self, number: int) -> bool:
        """Whether the gateway has its instance, and does not leave it out."""
        cooling = re.search(rf'cooling_down{{instance="{_instance(number)}"}} (\S+)', self.metrics())
        return cooling is not None and float(cooling[1]) == 0

    def counted_tokens(self) -> int:
        """Of complete answers, by the gateway's metrics."""
        return sum(
            round(float(number))
            for labels, number in _TOKENS.findall(self.metrics())
            if 'direction="output"' in labels and 'estimated="false"' in labels
        )

    def metrics(self) -> str:
        return _answer(f"{self.url}/metrics", key=_ADMIN).decode()

    def close(self) -> None:
        self.api.end()
        self._link.close()


@contextmanager
def running_site(*, engines: int = 1) -> Iterator[Site]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="aima-bench-")))
        redis = stack.enter_context(own_redis(directory))
        running = [EngineProcess(directory, host) for host in HOSTS[:engines]]
        made = Site(directory, redis, running)
        stack.callback(made.close)
        for number, engine in enumerate(running):
            engine.start()
            stack.callback(engine.end)
            made.serve(number)
        made.create_key()
        made.api.start()
        made.wait_for_api()
        made.serve_far(stack.enter_context(_dataplane(directory, running[0])))
        gateway = [sys.executable, "-m", "aima_api.gateway"]
        made.pid = stack.enter_context(process(gateway, made.environment, log=directory / "gateway.log"))
        made.wait_for(MODEL)
        made.wait_for(FAR_MODEL)
        yield made


@contextmanager
def _dataplane(directory: Path, engine: EngineProcess) -> Iterator[str]:
    files, port = directory / "dataplane", free_port()
    keys = (SigningKey(SIGNING_KEY).public,)
    config = Config(
        host=HostName(HOSTS[0]),
        bind="127.0.0.1",
        port=port,
        keys=keys,
        connections=4096,
        models=directory / "models",
        uploads=1,
    )
    config.save(files)
    EngineAddresses(files).put(_FAR, "127.0.0.1", engine.port, fence=1)
    program = [sys.executable, "-m", "aima_worker.dataplane", str(files)]
    with process(program, os.environ, log=directory / "dataplane.log"):
        yield f"http://127.0.0.1:{port}"


def _instance(number: int) -> str:
    return f"svc-tiny-{MODEL}@{HOSTS[number]}"


def _await(fact: Any, what: str) -> None:
    if not eventually(fact, within=SERVES_WITHIN):
        raise RuntimeError(f"{what} does not answer within {SERVES_WITHIN.seconds} s")


def _answer(url: str, *, key: str = "") -> bytes:
    """Empty if nothing answers."""
    try:
        with urlopen(Request(url, headers={"Authorization": f"Bearer {key}"} if key else {}), timeout=5) as answer:
            body: bytes = answer.read()
            return body
    except (URLError, OSError):
        return b""
