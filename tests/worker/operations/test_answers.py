"""An instance is ready when its engine answers right: a good health check with a wrong answer keeps it unready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
from lab.answering_engine import AnsweringEngine, answering_engine, chat, embeddings, ranks, speech
from lab.commands import a_start_of
from lab.desk import Desk, desk_of
from lab.parts import eventually

from aima_core.domain.operations import StartService
from aima_core.domain.services import Instance, InstanceState
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_worker.context import Timings
from aima_worker.inference.http import Request, Response, ask
from aima_worker.operations.managed import recognize
from aima_worker.operations.readiness import WRONG_ANSWERS
from aima_worker.reconciler import answers
from aima_worker.reconciler.answers import AnswerChecks
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.reconciler.supervision import FAILED_CHECKS, HealthSupervisor
from aima_worker.runtimes.fake.runtime import FakeRuntime

pytestmark = pytest.mark.redis

CHAT = "/v1/chat/completions"
NAME = "test.svc-tiny-dial.alpha"
PASSES_WITHIN = timedelta(seconds=30)
"""Some passes of the reconcile loop."""
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

    timings = Timings(restart_delays=(timedelta(),))
    with desk_of(settings, redis, runtime, probe=runtime.probe, ask=ask_scripted, timings=timings) as desk:
        yield desk


def a_checked_start(**ready: object) -> StartService:
    checks = ready or {api: {} for api in EVERY_API}
    return a_start_of(ready=checks, serves=EVERY_API, names="--alias {name}", health_check={"timeout": "1m"})


def test_an_engine_whose_answers_are_right_is_ready(desk: Desk, asked: list[str]) -> None:
    outcome = desk.run_command(a_checked_start())

    assert outcome.instance.state is InstanceState.READY
    assert len(asked) == len(EVERY_API)


WRONG = pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        (CHAT, chat("another-model"), "another-model"),
        ("/v1/embeddings", embeddings("dial", ([float("nan")], [1.0], [1.0])), "not finite"),
        ("/v1/audio/speech", speech(loudness=0), "silent"),
        ("/v1/audio/transcriptions", {"text": "Thank you."}, "Thank you."),
        ("/v1/rerank", ranks({0: True, 1: False, 2: False}), "unrelated"),
    ],
)


@WRONG
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

    assert eventually(lambda: len(asked) > WRONG_ANSWERS)
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
    assert a_checked_start().digest == a_start_of(health_check={"timeout": "1m"}).digest


class Supervised:
    """A ready engine whose gauge is `requests`, its checks and its supervision."""

    def __init__(self, desk: Desk) -> None:
        outcome = desk.run_command(a_checked_start(chat={}, busy=["requests"]))
        self._desk, self._id = desk, outcome.instance.id
        self._answers = AnswerChecks(desk.host)
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


# After a restart of the engine, and of the worker ---------------------------------------------------------------------


class Watched:
    """A ready instance, and the reconcile passes of one worker after the other. `states` are those it was seen in."""

    def __init__(self, desk: Desk, start: StartService | None = None, **ready: object) -> None:
        self._desk = desk
        self._id = desk.run_command(start or a_checked_start(**ready)).instance.id
        self.restart_worker()
        self.reconcile()

    def restart_worker(self) -> None:
        self.loop = ReconcileLoop(self._desk.host)
        self.checks = self.loop._answers
        self.states: set[InstanceState] = set()

    @property
    def instance(self) -> Instance:
        return self._desk.host.services.instance(self._id)

    def reconcile(self) -> Instance:
        self.loop.reconcile_once()
        self.states.add(self.instance.state)
        assert self.instance.serving is (self.instance.state is InstanceState.READY)
        return self.instance

    def until(self, fact: Callable[[Instance], bool]) -> Instance:
        assert eventually(lambda: fact(self.reconcile())), self.instance
        return self.instance

    def until_is(self, state: InstanceState) -> Instance:
        return self.until(lambda instance: instance.state is state)


@pytest.fixture
def without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the checks of an engine that has answered wrong."""
    monkeypatch.setattr(answers, "PASS_INTERVAL", timedelta())


@WRONG
@pytest.mark.usefixtures("without_pause")
def test_a_restarted_engine_that_answers_wrong_stays_unready_until_it_answers_right(
    desk: Desk, runtime: FakeRuntime, script: Script, path: str, answer: Any, problem: str
) -> None:
    watched = Watched(desk)
    runtime.end(NAME, exit_code=139)
    script[path] = answer
    watched.states.clear()

    unhealthy = watched.until_is(InstanceState.UNHEALTHY)
    seen = set(watched.states)
    script.clear()
    ready = watched.until_is(InstanceState.READY)

    assert unhealthy.failure.code == "engine_answers_wrong"
    assert problem in unhealthy.failure.message
    assert seen == {InstanceState.RESTARTING, InstanceState.UNHEALTHY}
    assert ready.failure is None


def test_a_restarted_engine_that_does_not_answer_yet_is_waited_for(
    desk: Desk, runtime: FakeRuntime, script: Script, asked: list[str]
) -> None:
    watched = Watched(desk, chat={})
    runtime.end(NAME, exit_code=139)
    script[CHAT] = 503
    watched.states.clear()
    asked.clear()

    watched.until(lambda _: len(asked) > WRONG_ANSWERS)
    seen = set(watched.states)
    script.clear()

    assert seen == {InstanceState.RESTARTING}
    assert watched.until_is(InstanceState.READY).failure is None


def test_a_restarted_engine_that_never_answers_is_unhealthy_after_the_time_of_a_start(
    desk: Desk, runtime: FakeRuntime, script: Script
) -> None:
    start = a_start_of(ready={"chat": {}}, serves=["chat"], health_check={"timeout": "300ms"})
    watched = Watched(desk, start)
    runtime.end(NAME, exit_code=139)
    script[CHAT] = 503

    unhealthy = watched.until_is(InstanceState.UNHEALTHY)

    assert "HTTP status 503" in unhealthy.failure.message


def test_an_engine_that_was_restarted_by_hand_must_answer_again(
    desk: Desk, runtime: FakeRuntime, script: Script, asked: list[str]
) -> None:
    watched = Watched(desk, chat={})
    script[CHAT] = 503
    watched.loop.start()
    assert eventually(lambda: watched.loop._changes is not None)

    try:
        with runtime._changing(NAME) as engine:
            engine.started_at = runtime._now()
        asked.clear()
        assert eventually(lambda: watched.instance.state is InstanceState.RESTARTING, within=PASSES_WITHIN)
        script.clear()
        assert eventually(lambda: watched.instance.state is InstanceState.READY, within=PASSES_WITHIN)
    finally:
        watched.loop.stop()
    assert CHAT in asked


class Immediately:
    """A thread that has ended when `start` returns (race)."""

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], **_: object) -> None:
        self.start = lambda: target(*args)


def test_an_engine_that_was_restarted_while_no_worker_ran_must_answer_again(
    desk: Desk, runtime: FakeRuntime, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(desk, chat={})
    script[CHAT] = 503
    runtime._engines[NAME].started_at = runtime._now()
    watched.restart_worker()
    monkeypatch.setattr(answers, "Thread", Immediately)

    restarting = watched.reconcile()
    script.clear()

    assert restarting.state is InstanceState.RESTARTING
    watched.until_is(InstanceState.READY)


def test_an_adopted_engine_serves_on_and_is_asked_once_soon_while_it_is_idle(
    desk: Desk, engine: AnsweringEngine, script: Script, asked: list[str]
) -> None:
    watched = Watched(desk, chat={}, busy=["requests"])
    watched.restart_worker()
    asked.clear()
    engine.running = 1

    watched.reconcile()
    watched.checks.check_once()
    asked_while_busy = list(asked)
    engine.running = 0
    watched.checks.check_once()
    watched.checks.check_once()
    watched.reconcile()

    assert (asked_while_busy, asked) == ([], [CHAT])
    assert watched.states == {InstanceState.READY}


def test_an_adopted_engine_that_answers_wrong_becomes_unhealthy(desk: Desk, script: Script) -> None:
    watched = Watched(desk, chat={}, busy=["requests"])
    watched.restart_worker()
    script[CHAT] = chat("another-model")

    watched.reconcile()
    watched.checks.check_once()

    assert watched.until_is(InstanceState.UNHEALTHY).failure.code == "engine_answers_wrong"


@pytest.mark.usefixtures("without_pause")
def test_an_engine_that_answered_wrong_before_the_worker_restarted_stays_unhealthy(desk: Desk, script: Script) -> None:
    watched = Watched(desk, chat={}, busy=["requests"])
    script[CHAT] = chat("another-model")
    watched.checks.check(recognize(desk.host, desk.host.runtime.find(NAME)))
    watched.until_is(InstanceState.UNHEALTHY)
    watched.restart_worker()

    watched.until(lambda _: watched.checks.is_hopeless(recognize(desk.host, desk.host.runtime.find(NAME))))
    seen = set(watched.states)
    script.clear()

    assert seen == {InstanceState.UNHEALTHY}
    watched.until_is(InstanceState.READY)


@pytest.mark.parametrize(
    ("answer", "state", "code"),
    [
        (chat("dial"), InstanceState.READY, None),
        (chat("another-model"), InstanceState.FAILED, "engine_answers_wrong"),
    ],
)
def test_an_abandoned_start_ends_by_the_answers_of_its_engine(
    desk: Desk, script: Script, answer: Any, state: InstanceState, code: str | None
) -> None:
    watched = Watched(desk, chat={})
    starting = watched.instance.model_copy(update={"state": InstanceState.STARTING, "operation": None})
    desk.host.services.update_status(starting)
    script[CHAT] = 503
    watched.restart_worker()

    watched.loop.reconcile_once()
    assert watched.instance.state is InstanceState.STARTING
    script[CHAT] = answer

    assert eventually(lambda: watched.loop.reconcile_once() or watched.instance.state is state)
    assert (watched.instance.failure and watched.instance.failure.code) == code
