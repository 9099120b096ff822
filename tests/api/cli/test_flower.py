"""`aima flower` shows a real installation to users with the password, without secrets and read-only."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from flower.urls import handlers
from lab.parts import eventually, free_port
from lab.running import AIMA, Aima
from tornado.web import URLSpec

from aima_api.flower import PENDING, REDIS_TIMEOUT
from aima_core.errors import BadSettings
from aima_core.queue.celery_app import celery_app

COMES_WITHIN = timedelta(minutes=1)
ENDS_WITHIN = 0.9 * REDIS_TIMEOUT.total_seconds()
"""Before a thread that waits for Redis ends by itself."""
OPEN = {"/healthcheck", "/logout"}
"""Pages without data."""

pytestmark = [pytest.mark.redis, pytest.mark.slow]


class Flower:
    """A Flower in a separate process, and a client of it."""

    def __init__(self, environment: dict[str, str], state: Path) -> None:
        self.port = free_port()
        self._environment = {**environment, "FLOWER_UNAUTHENTICATED_API": "1"}  # which must be ignored
        self._state = state
        self.process = subprocess.Popen([AIMA, "flower", "--port", str(self.port)], env=self._environment)
        assert eventually(lambda: self.status("/healthcheck") == 200, within=COMES_WITHIN)

    @property
    def password(self) -> str:
        return (self._state / "flower.password").read_text()

    def status(self, path: str, *, user: str | None = None, method: str = "GET") -> int | None:
        """None while the server does not answer."""
        try:
            return self._ask(path, user, method)[0]
        except OSError:
            return None

    def answer(self, path: str, method: str = "GET") -> str:
        return self._ask(path, f"aima:{self.password}", method)[1]

    def read(self, path: str) -> Any:
        return json.loads(self.answer(path))

    def _ask(self, path: str, user: str | None, method: str) -> tuple[int, str]:
        headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"} if user else {}
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers=headers, method=method)
        try:
            with urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refused:
            return refused.code, refused.read().decode()


@pytest.fixture(scope="module")
def aima(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aima]:
    aima = Aima(tmp_path_factory.mktemp("flower"), installation="flower", runtime="fake")
    aima.up()
    yield aima
    aima.end()


@pytest.fixture(scope="module")
def secrets(aima: Aima) -> dict[str, str]:
    state = aima.directory / "state"
    return {name: (state / name).read_text().strip() for name in ("redis/password", "signing.key")}


@pytest.fixture(scope="module")
def flower(aima: Aima, secrets: dict[str, str]) -> Iterator[Flower]:
    state = aima.directory / "state"
    url = f"redis://:{secrets['redis/password']}@127.0.0.1:{(state / 'redis/port').read_text()}/0"
    flower = Flower({**aima.environment, "AIMA_REDIS__URL": url}, state)
    assert eventually(lambda: "aima@alpha" in flower.read("/api/workers?status=1"), within=COMES_WITHIN)
    yield flower
    flower.process.send_signal(signal.SIGTERM)
    assert flower.process.wait(ENDS_WITHIN) == 0


def test_every_host_is_listed_as_a_worker_with_its_queues(flower: Flower) -> None:
    worker = flower.read("/api/workers?refresh=1")["aima@alpha"]

    queues = {queue["name"] for queue in worker["active_queues"]}
    assert "host.alpha" in queues
    assert any(name.startswith("cpu.") for name in queues)
    kinds = ["start", "pull", "stop", "remove", "pull-model", "remove-model"]
    kinds += ["pin-model", "unpin-model", "prune-models"]
    assert set(worker["registered"]) == {f"aima.{kind}" for kind in kinds}


def test_an_operation_is_listed_as_a_task_under_its_id(aima: Aima, flower: Flower) -> None:
    (operation,) = json.loads(aima.aima("image", "pull", "tiny:1", "--host", "alpha", "-o", "json").stdout)

    def task() -> Any:
        return flower.read("/api/tasks").get(operation["id"])

    assert eventually(lambda: bool(task()) and task()["worker"] == "aima@alpha", within=COMES_WITHIN)
    assert task()["name"] == "aima.pull"
    assert "'what': 'tiny:1'" in task()["kwargs"]
    assert operation["id"] in flower.answer(f"/task/{operation['id']}")


def test_pending_operations_are_listed_beside_the_queues(aima: Aima, flower: Flower) -> None:
    assert aima.here("host", "drain", "alpha").returncode == 0
    (operation,) = json.loads(aima.aima("service", "start", "svc-tiny-dial", "-o", "json").stdout)

    def lengths() -> dict[str, int]:
        return {each["name"]: each["messages"] for each in flower.read("/api/queues/length")["active_queues"]}

    assert eventually(lambda: lengths()[PENDING] == 1, within=COMES_WITHIN), lengths()
    assert sum(lengths().values()) == 1
    assert PENDING in flower.answer("/broker")

    assert aima.here("operation", "cancel", operation["id"]).returncode == 0
    assert eventually(lambda: lengths()[PENDING] == 0, within=COMES_WITHIN), lengths()
    assert aima.here("host", "resume", "alpha").returncode == 0


@pytest.mark.parametrize("user", [None, "aima:wrong", "aima:", "nobody:x"])
def test_every_page_needs_the_password(user: str | None, flower: Flower) -> None:
    asked = [(method, page) for page in pages() for method in ("GET", "POST")]

    answered = {page for method, page in asked if flower.status(page, user=user, method=method) == 200}

    assert len(asked) > 50
    assert answered == OPEN


def test_no_response_contains_a_secret(flower: Flower, secrets: dict[str, str]) -> None:
    answers = "".join(flower.answer(page) for page in (*pages(), "/worker/aima@alpha", "/api/workers?refresh=1"))

    assert "aima@alpha" in answers
    assert [name for name, secret in [*secrets.items(), ("its own", flower.password)] if secret in answers] == []


def test_the_sentinel_connection_of_a_worker_is_shown_without_its_password() -> None:
    url = "sentinel://:the-master-s@one:1,two:2/0?master=m&sentinel_password=the-sentinels-own"

    with celery_app(url, answer_within=timedelta(seconds=1)).connection() as line:
        reported = {name: json.dumps(value) for name, value in line.info().items()}

    assert "the-sentinels-own" not in "".join(reported.values())
    assert '"master_name": "m"' in reported["transport_options"]


def test_a_visitor_cannot_change_anything(flower: Flower, aima: Aima) -> None:
    refused = flower.answer("/api/worker/shutdown/aima@alpha", "POST")

    assert "Read only" in refused
    assert aima.record("host", "list")[0]["live"]


def test_only_the_owner_can_read_the_password_file(flower: Flower, aima: Aima) -> None:
    kept = aima.directory / "state/flower.password"

    assert kept.stat().st_mode & 0o077 == 0
    assert len(flower.password) >= 32


def test_a_public_address_needs_an_explicit_password(tmp_path: Path) -> None:
    ended = refused(tmp_path, "--bind", "0.0.0.0")

    assert ended.returncode == BadSettings.exit_code
    assert "without a password of your own" in ended.stderr
    assert not (tmp_path / "flower.password").exists()


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        ended = refused(tmp_path, "--port", str(port))

    assert ended.returncode == BadSettings.exit_code
    assert f"port {port}" in ended.stderr


def test_it_exits_at_once_even_while_it_waits_for_redis(tmp_path: Path) -> None:
    nowhere = {"AIMA_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0", "AIMA_STATE_DIR": str(tmp_path)}
    flower = Flower({**os.environ, **nowhere, "AIMA_CONFIG": os.devnull}, tmp_path)

    flower.process.send_signal(signal.SIGTERM)

    assert flower.process.wait(ENDS_WITHIN) == 0


def pages() -> list[str]:
    """Every page of Flower except style sheets, with a name for each placeholder."""
    patterns = [each.regex.pattern if isinstance(each, URLSpec) else each[0] for each in handlers]
    named = {re.sub(r"\(\.[+*]\)", "x", pattern).strip("$?") for pattern in patterns}
    return sorted(named - {".*", "/static/x"})


def refused(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AIMA_STATE_DIR": str(state), "AIMA_CONFIG": os.devnull}
    return subprocess.run(
        [AIMA, "flower", *options], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
