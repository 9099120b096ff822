"""An earlier version and this one in one installation: upgrades and rollbacks of hosts and API nodes.

`earlier_commit` names the earlier version, whose wheel is built from the history.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import httpx2
import psutil
import pytest
from api.catalog.entries import write
from lab.commands import SIGNING_KEY, enqueue_signed
from lab.fleet import fleet_engine
from lab.parts import eventually, free_port, missing, own_ports
from lab.redis_server import RedisServer, redis_program
from lab.running import ROOT

from aima_core.domain.ids import ModelId
from aima_core.domain.models import Manifest, ManifestFile
from aima_core.domain.operations import PullModel
from aima_core.queue.notifier import Notifier
from aima_core.store.operations import OperationStore

pytestmark = [pytest.mark.redis, pytest.mark.slow]

COMMIT = Path(__file__).with_name("earlier_commit").read_text().strip()
SERVICE = "svc-plain-one"
PORTS = own_ports(19400)
WITHIN = timedelta(seconds=60)
BUILD_TIMEOUT = 120
_UV = ROOT / "var/uv/bin/uv"


def _history_is_cut() -> bool:
    """A shallow clone, or an export without history: nothing on this machine can bring the commit back."""
    shallow = ("git", "rev-parse", "--is-shallow-repository")
    return subprocess.run(shallow, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() != "false"


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the earlier version's packages; skips the test without the history or an index of packages."""
    directory = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        reason = f"the history has no commit {COMMIT[:12]} (`git fetch --unshallow`): {archive.stderr.decode()[-200:]}"
        if _history_is_cut():
            pytest.skip(reason)
        missing(reason)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(directory / "source", filter="data")
    with zipfile.ZipFile(wheel_of(directory / "source", directory)) as wheel:
        wheel.extractall(directory / "packages")
    found = subprocess.run(
        [sys.executable, "-c", "import aima_worker; print(aima_worker.__file__)"],
        env={**os.environ, "PYTHONPATH": str(directory / "packages")},
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(directory)), "another version comes first"
    return directory / "packages"


def wheel_of(source: Path, directory: Path) -> Path:
    uv = str(_UV) if _UV.exists() else shutil.which("uv")
    pip = (str(getattr(sys, "_base_executable", sys.executable)), "-m", "pip", "wheel", "--no-deps", "--wheel-dir")
    command = (uv, "build", "--wheel", "--out-dir") if uv else pip
    built = subprocess.run(
        [*command, str(directory), str(source)], capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
    )
    if built.returncode:
        missing(f"no wheel of the earlier version can be built: {built.stderr[-300:]}")
    [wheel] = directory.glob("*.whl")
    return wheel


class Node:
    """An API node or a worker as a process, of this version or the earlier one."""

    def __init__(self, module: str, environment: Mapping[str, str], directory: Path) -> None:
        self._module = module
        self._environment = environment
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, packages: Path) -> None:
        """Starts the version in that directory."""
        # As another user, an engine could not execute the Python of the tests. The earlier version has no such setting.
        is_known = (packages / "aima_worker/runtimes/process/users.py").exists()
        own_user = {"AIMA_NATIVE__USERS": "none"} if is_known else {}
        with (self._directory / f"{self._module}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env={**self._environment, **own_user, "PYTHONPATH": str(packages)},
                cwd=self._directory,  # `-m` would prefer the packages of the working directory
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(WITHIN.total_seconds())
            finally:
                self._process.kill()
                self._process = None


class Installation:
    """An API node and a host that runs native engines, on one Redis."""

    def __init__(self, redis_url: str, directory: Path, stack: ExitStack) -> None:
        (directory / "site").mkdir()
        (directory / "site/health").write_text("well")
        write(directory / "catalog/engines/plain/plain-cpu.yaml", native_engine(directory / "site"))
        port = free_port()
        environment = {
            **os.environ,
            "AIMA_CONFIG": os.devnull,
            "AIMA_REDIS__URL": redis_url,
            "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
            "AIMA_STATE_DIR": str(directory / "state"),
            "AIMA_RUNTIME": "process",
            "AIMA_HOST__NAME": "alpha",
            "AIMA_HOST__PORTS": f"{PORTS[0]}-{PORTS[-1]}",
            "AIMA_API__PORT": str(port),
            "AIMA_API__CATALOG": str(directory / "catalog"),
        }
        self.directory = directory
        self.client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=30, limits=httpx2.Limits(max_keepalive_connections=0)
        )
        self.api, self.worker = (Node(module, environment, directory) for module in ("aima_api", "aima_worker"))
        for close in (self.client.close, self._kill_engines, self.worker.stop, self.api.stop):
            stack.callback(close)

    def up(self, *, api: Path, worker: Path) -> None:
        self.api.start(api)
        assert eventually(self._api_answers, within=WITHIN), self.log()
        self.worker.start(worker)
        assert eventually(lambda: bool(self.host().get("live")), within=WITHIN), self.log()

    def restart_worker(self, packages: Path) -> None:
        self.worker.stop()
        assert eventually(lambda: not self.host()["live"], within=WITHIN), self.log()
        self.worker.start(packages)
        assert eventually(lambda: bool(self.host()["live"]), within=WITHIN), self.log()

    def restart_api(self, packages: Path) -> None:
        self.api.stop()
        self.api.start(packages)
        assert eventually(self._api_answers, within=WITHIN), self.log()

    def run(self, path: str, **body: Any) -> str:
        """Submits an operation and returns the state in which it ends."""
        reply = self.client.post(path, json=body)
        assert reply.status_code == 202, reply.text
        if reply.json().get("unchanged"):
            return "unchanged"
        [operation] = reply.json()["operations"]

        def state() -> str:
            return str(self.client.get(f"/v1/operations/{operation['id']}").json()["state"])

        assert eventually(lambda: state() not in ("queued", "running"), within=WITHIN), self.log()
        return state()

    def host(self) -> Mapping[str, Any]:
        reply = self.client.get("/v1/hosts/alpha")
        return reply.json() if reply.is_success else {}

    def instance(self) -> Mapping[str, Any]:
        reply = self.client.get(f"/v1/services/{SERVICE}")
        assert reply.is_success, f"{reply.text}\n{self.log()}"
        [instance] = reply.json()["instances"]
        return dict(instance)

    def states(self) -> list[str]:
        """Of the service's instances; none while Redis knows neither."""
        reply = self.client.get(f"/v1/services/{SERVICE}")
        return [each["state"] for each in reply.json()["instances"]] if reply.is_success else []

    def log(self) -> str:
        return "\n".join(file.read_text()[-3000:] for file in self.directory.glob("*.log"))

    def engines(self) -> list[int]:
        """The ids of the engines' processes: those that serve the site."""
        site = str(self.directory / "site")
        return [each.pid for each in psutil.process_iter() if _serves(each, site)]

    def _api_answers(self) -> bool:
        try:
            return self.client.get("/readyz").is_success
        except httpx2.TransportError:
            return False

    def _kill_engines(self) -> None:
        for pid in self.engines():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _serves(process: psutil.Process, site: str) -> bool:
    with suppress(psutil.Error):
        words = process.cmdline()
        return "http.server" in words[:4] and words[-1] == site
    return False


def native_engine(site: Path) -> str:
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "{address}", "--directory", str(site)]
    return f"{fleet_engine('plain', image='plain:1')}native:\n  command: {command}\n  install: it is Python\n"


@pytest.fixture
def installation(own_redis: RedisServer, tmp_path: Path) -> Iterator[Installation]:
    with ExitStack() as stack:
        yield Installation(own_redis.url, tmp_path, stack)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    program = redis_program()
    if program is None:
        missing("there is no Redis server")
    made = RedisServer(program, tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def with_an_earlier_worker(
    earlier: Path, server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Of tests that leave no engine behind."""
    with ExitStack() as stack:
        made = Installation(server.url, tmp_path_factory.mktemp("installation"), stack)
        made.up(api=ROOT, worker=earlier)
        yield made


@pytest.fixture
def with_an_earlier_api(earlier: Path, installation: Installation) -> Installation:
    installation.up(api=earlier, worker=ROOT)
    return installation


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "sides",
    [pytest.param("with_an_earlier_worker", id="the worker"), pytest.param("with_an_earlier_api", id="the API node")],
)
def test_a_whole_life_with_an_earlier_version_on_one_side(sides: str, request: pytest.FixtureRequest) -> None:
    installation: Installation = request.getfixturevalue(sides)

    assert installation.run(f"/v1/services/{SERVICE}:start") == "succeeded", installation.log()
    instance, engines = installation.instance(), installation.engines()
    logs = installation.client.get(f"/v1/services/{SERVICE}/logs")
    drained = installation.client.post("/v1/hosts/alpha:drain", json={})
    resumed = installation.client.post("/v1/hosts/alpha:resume", json={})

    assert instance["state"] == "ready"
    assert answers(instance["endpoint"])
    assert len(engines) == 1
    assert all(reply.is_success for reply in (logs, drained, resumed))
    assert "GET /health" in logs.text

    os.kill(engines[0], signal.SIGKILL)

    assert eventually(lambda: installation.engines() not in ([], engines), within=WITHIN), installation.log()
    assert eventually(lambda: installation.instance()["state"] == "ready", within=WITHIN), installation.log()
    assert installation.run(f"/v1/services/{SERVICE}:stop") == "succeeded", installation.log()
    assert installation.engines() == []
    assert installation.client.get("/v1/ports").json()["items"] == []


@pytest.mark.timeout(240)
def test_a_host_that_is_upgraded_and_rolled_back_keeps_its_engines(
    earlier: Path, with_an_earlier_worker: Installation
) -> None:
    installation = with_an_earlier_worker
    installation.run(f"/v1/services/{SERVICE}:start")
    engines = installation.engines()

    for packages in (ROOT, earlier):
        installation.restart_worker(packages)
        installation.run(f"/v1/services/{SERVICE}:start")  # finds it running as specified

        assert installation.host()["strangers"] == []
        assert installation.instance()["state"] == "ready"
        assert installation.engines() == engines, installation.log()
    assert installation.run(f"/v1/services/{SERVICE}:stop") == "succeeded", installation.log()


@pytest.mark.timeout(240)
def test_an_engine_that_the_newer_worker_started_is_managed_by_the_one_rolled_back_to(
    earlier: Path, installation: Installation, own_redis: RedisServer
) -> None:
    installation.up(api=ROOT, worker=ROOT)
    installation.run(f"/v1/services/{SERVICE}:start")
    engines = installation.engines()

    installation.restart_worker(earlier)
    installation.restart_api(earlier)
    own_redis.empty()  # so that only labels tell of the engine

    assert eventually(lambda: installation.states() == ["ready"], within=WITHIN), installation.log()
    assert installation.host()["strangers"] == []
    assert installation.engines() == engines
    assert installation.run(f"/v1/services/{SERVICE}:stop") == "succeeded", installation.log()
    assert installation.engines() == []


def answers(endpoint: str) -> bool:
    try:
        with urlopen(f"{endpoint}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except URLError:
        return False


@pytest.mark.timeout(240)
def test_an_earlier_worker_ends_a_pull_of_a_model_which_it_does_not_know(
    with_an_earlier_worker: Installation, server: RedisServer
) -> None:
    installation = with_an_earlier_worker
    file = ManifestFile(path="a.gguf", size=1, sha256="a" * 64)
    manifest = Manifest(model=ModelId("polly"), source="hf:maker/polly", revision="1", files=(file,))

    with server.client() as redis:
        id = enqueue_signed(OperationStore(redis), PullModel(manifest=manifest)).id
        Notifier(redis).notify(OperationStore(redis).get(id))

    def record() -> Mapping[str, Any]:
        return dict(installation.client.get(f"/v1/operations/{id}").json())

    assert eventually(lambda: record()["state"] == "failed", within=3 * WITHIN), installation.log()  # redelivered first
    assert record()["failure"]["code"] == "corrupt_data"
