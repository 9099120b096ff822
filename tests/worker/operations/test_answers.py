"""A start is ready when the engine answers right: a good health check with a wrong answer keeps it unready."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
from lab.answering_engine import AnsweringEngine, answering_engine, chat, embeddings, ranks, speech
from lab.commands import a_start_of
from lab.desk import Desk, desk_of

from aima_core.domain.operations import StartService
from aima_core.domain.services import Instance, InstanceState
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_worker.inference.http import Request, Response, ask
from aima_worker.operations.managed import recognize
from aima_worker.operations.readiness import WRONG_ANSWERS
from aima_worker.reconciler.answers import IdleChecks
from aima_worker.reconciler.supervision import FAILED_CHECKS, HealthSupervisor
from aima_worker.runtimes.fake.runtime import FakeRuntime

pytestmark = pytest.mark.redis

CHAT = "/v1/chat/completions"
EVERY_API = ["chat", "embeddings", "rerank", "speech", "transcriptions"]
Script = dict[str, Any]


@pytest.fixture
def script() -> Script:
    """What the engine answers wrong, by path."""
    return {}


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def engine(script: Script, asked: list[str]) -> Iterator[AnsweringEngine]:
    with answering_engine("dial") as engine:
        engine.wrong = script
        engine.asked = asked
        yield engine


@pytest.fixture
def desk(settings: Settings, redis: TextRedis, runtime: FakeRuntime, engine: AnsweringEngine) -> Iterator[Desk]:
    """Its engines are fakes; a scripted engine answers for all of them."""

    def ask_scripted(request: Request, within: timedelta, at_most: int) -> Response:
        path = urlsplit(request.url).path
        return ask(Request(engine.url + path, request.body, request.content_type), within, at_most)

    with desk_of(settings, redis, runtime, probe=runtime.probe, ask=ask_scripted) as desk:
        yield desk


def a_checked_start(**ready: object) -> StartService:
    checks = ready or {api: {} for api in EVERY_API}
    return a_start_of(ready=checks, serves=EVERY_API, names="--alias {name}", health_check={"timeout": "5s"})


def test_an_engine_whose_answers_are_right_is_ready(desk: Desk, asked: list[str]) -> None:
    outcome = desk.run_command(a_checked_start())

    assert outcome.instance.state is InstanceState.READY
    assert len(asked) == len(EVERY_API)


@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        (CHAT, chat("another-model"), "another-model"),
        ("/v1/embeddings", embeddings("dial", ([float("nan")], [1.0], [1.0])), "not finite"),
        ("/v1/audio/speech", speech(loudness=0), "silent"),
        ("/v1/audio/transcriptions", {"text": "Thank you."}, "Thank you."),
        ("/v1/rerank", ranks({0: True, 1: False, 2: False}), "unrelated"),
    ],
)
def test_a_healthy_engine_that_answers_wrong_stays_unready(
    desk: Desk, runtime: FakeRuntime, script: Script, asked: list[str], path: str, answer: Any, problem: str
) -> None:
    script[path] = answer

    outcome = desk.run_command(a_checked_start())

    assert outcome.code == "engine_answers_wrong"
    assert problem in outcome.operation.failure.message
    assert path in outcome.operation.failure.message
    assert outcome.instance.state is InstanceState.FAILED
    assert asked.count(path) == WRONG_ANSWERS
    assert desk.containers() == []


def test_an_engine_that_does_not_answer_yet_is_waited_for(desk: Desk, script: Script, asked: list[str]) -> None:
    script[CHAT] = 503
    _, starting = desk.begin(a_checked_start(chat={}))

    while len(asked) <= WRONG_ANSWERS:
        assert not starting.done()
    del script[CHAT]

    assert starting.result().instance.state is InstanceState.READY


def test_a_missing_answer_fails_the_start_when_the_patience_of_the_health_check_ends(
    desk: Desk, script: Script
) -> None:
    script[CHAT] = 503
    start = a_start_of(ready={"chat": {}}, serves=["chat"], health_check={"timeout": "300ms"})

    outcome = desk.run_command(start)

    assert outcome.code == "engine_answers_wrong"
    assert "HTTP status 503" in outcome.operation.failure.message


def test_a_cancel_does_not_wait_for_an_answer(settings: Settings, redis: TextRedis, runtime: FakeRuntime) -> None:
    asked, answered = Event(), Event()

    def never(request: Request, within: timedelta, at_most: int) -> Response:
        asked.set()
        answered.wait()
        raise OSError("late")

    with desk_of(settings, redis, runtime, probe=runtime.probe, ask=never) as desk:
        operation, starting = desk.begin(a_checked_start(chat={}))
        assert asked.wait(10)
        desk.host.operations.request_cancel(operation)
        outcome = starting.result(10)
        answered.set()

    assert outcome.code == "cancelled"


def test_weights_of_an_unknown_kind_are_not_asked(desk: Desk, asked: list[str], model_root: Any) -> None:
    (model_root / "weights").mkdir()
    start = a_checked_start().model_copy(update={"model_path": "weights"})
    start = start.model_copy(update={"engine": start.engine.model_copy(update={"model_mount": "/models"})})

    outcome = desk.run_command(start)

    assert outcome.instance.state is InstanceState.READY
    assert asked == []


def test_an_edit_of_the_checks_alone_replaces_no_engine() -> None:
    assert a_checked_start().digest == a_start_of(health_check={"timeout": "5s"}).digest


class Supervised:
    """A ready engine whose gauge is `requests`, its checks and its supervision."""

    def __init__(self, desk: Desk) -> None:
        outcome = desk.run_command(a_checked_start(chat={}, busy=["requests"]))
        self._desk, self._id = desk, outcome.instance.id
        self._answers = IdleChecks(desk.host)
        self._supervisor = HealthSupervisor(desk.host, self._answers)

    def check_and_supervise(self) -> Instance:
        container = self._desk.host.runtime.find(self._desk.host.container_name(self._id.service))
        managed = recognize(self._desk.host, container)
        self._answers.check(managed)
        for _ in range(FAILED_CHECKS):
            self._supervisor.check(self._desk.host.services.instance(self._id), managed)
        return self._desk.host.services.instance(self._id)


def test_an_idle_engine_that_answers_wrong_is_unhealthy_until_it_answers_right(desk: Desk, script: Script) -> None:
    supervised = Supervised(desk)
    script[CHAT] = chat("another-model")

    wrong = supervised.check_and_supervise()
    script.clear()
    right = supervised.check_and_supervise()

    assert (wrong.state, wrong.failure.code) == (InstanceState.UNHEALTHY, "engine_answers_wrong")
    assert (right.state, right.failure) == (InstanceState.READY, None)


def test_a_busy_engine_is_not_asked(desk: Desk, engine: AnsweringEngine, script: Script, asked: list[str]) -> None:
    supervised = Supervised(desk)
    engine.running, script[CHAT] = 1, chat("another-model")
    asked.clear()

    busy = supervised.check_and_supervise()

    assert asked == []
    assert busy.state is InstanceState.READY
