"""Several API nodes: a request or a watch moves over to the next node, once and without sending anything twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import BEGINNING, CUT, ID, SERVICE, StandIn, an_event, an_operation, stand_in_api
from api.cli.terminal import Screen, run_on_terminal
from api.node import ScriptedWorker
from lab.api_process import ApiProcess
from lab.http_server import http_server
from lab.parts import free_port

from aima_api.cli import nodes
from aima_core.domain.operations import Phase
from aima_core.errors import ApiUnavailable, BrokerUnavailable
from aima_core.redis.interface import TextRedis

MAIN = "from aima_api.cli.main import main; main()"
START = f"POST /v1/services/{SERVICE}:start"
LOGS = f"/v1/services/{SERVICE}/logs"


@dataclass
class LosesReplies:
    """A node that executes every request and dies before it replies."""

    url: str = ""
    received: list[tuple[str, str | None]] = field(default_factory=list)
    """Method and Idempotency-Key."""


@pytest.fixture
def dying() -> Iterator[LosesReplies]:
    with _loses_replies() as node:
        yield node


@pytest.mark.redis
def test_a_watch_moves_over_when_its_node_is_killed(redis_url: str, redis: TextRedis, tmp_path: Path) -> None:
    first, second = (ApiProcess(redis_url, tmp_path, name=name) for name in ("first", "second"))
    try:
        first.up()
        second.up()
        worker = ScriptedWorker(redis)
        [operation] = first.start("svc-tiny-dial")
        with _aima("--url", f"{first.url},{second.url}", "operation", "watch", operation["id"]) as watching:
            assert watching.stdout is not None
            printed = iter(watching.stdout.readline, "")
            assert next(printed)  # race: its start may take longer than the claim lasts
            worker.begins(operation)
            worker.says(operation["id"], Phase.LOADING, lines=["before"])
            assert any("before" in line for line in printed)

            first.kill()
            worker.says(operation["id"], Phase.LOADING, lines=["after"])
            worker.says(operation["id"], Phase.READY, host="alpha", endpoint="http://127.0.0.1:20000")

            rest = "".join(printed)
            assert watching.wait(30) == 0
            assert watching.stderr is not None
            said = watching.stderr.read()
    finally:
        first.kill()
        second.kill()

    assert (rest.count("before"), rest.count("after")) == (0, 1)
    assert "ready in" in rest
    assert said.startswith(f"{first.url} does not answer (")
    assert said.endswith(f"); continuing with {second.url}.\n")


def test_the_failover_of_a_watch_leaves_nothing_of_the_moving_part_on_a_terminal(script: StandIn) -> None:
    script.answer(f"GET /v1/operations/{ID}", an_operation())
    script.stream(an_event(1, "loading"), CUT)
    with stand_in_api() as second:
        second.stream(an_event(2, "ready", after=3, name="end", host="box"))
        words = ["--url", f"{script.url},{second.url}", "operation", "watch", ID]

        code, output = run_on_terminal([sys.executable, "-c", MAIN, *words], columns=200, environment=dict(os.environ))

    screen = Screen(200)
    screen.write(output)
    lines = screen.text.splitlines()
    assert code == 0
    assert f"{script.url} does not answer (the connection was closed); continuing with {second.url}." in lines
    assert [line for line in lines if line.startswith(f"✓ {SERVICE} on box: ready in 3.0 s")]
    assert all(line.isascii() or line[0] == "✓" for line in lines), screen.text


@pytest.mark.redis
def test_a_request_goes_to_the_node_that_is_up(redis_url: str, tmp_path: Path, aima: Aima) -> None:
    node, away = ApiProcess(redis_url, tmp_path), f"http://127.0.0.1:{free_port()}"
    try:
        node.up()

        outcome = aima("--url", f"{away}, {node.url}", "service", "list")
    finally:
        node.kill()

    assert outcome.code == 0
    assert outcome.err.startswith(f"{away} does not answer (Connection refused); continuing with {node.url}.\n")


def test_followed_logs_move_over_and_print_each_line_once(script: StandIn, aima: Aima) -> None:
    script.answer(f"GET /v1/services/{SERVICE}", {"instances": [{"id": f"{SERVICE}@box"}]})
    script.streams[LOGS] = [[_line("one", 0), CUT]]
    with stand_in_api() as second:
        second.streams[LOGS] = [[_line("one", 0), _line("two", 1), "event: end\ndata: {}\n\n"]]

        outcome = aima("--url", f"{script.url},{second.url}", "service", "logs", SERVICE, "--follow")

    assert (outcome.code, outcome.out) == (0, "one\ntwo\n")
    assert f"continuing with {second.url}." in outcome.err


def test_a_start_whose_reply_was_lost_is_repeated_with_its_idempotency_key(
    dying: LosesReplies, script: StandIn, aima: Aima
) -> None:
    script.answer(START, {"operations": [an_operation()]}, status=202)

    outcome = aima("--url", f"{dying.url},{script.url}", "service", "start", SERVICE)

    assert outcome.code == 0
    [(_, key)] = dying.received
    assert key
    assert [request.headers["Idempotency-Key"] for request in script.asked(START)] == [key]


def test_a_repeated_start_waits_until_the_first_request_is_over(
    dying: LosesReplies, script: StandIn, aima: Aima, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "IN_PROGRESS_INTERVAL", timedelta())
    script.refuse(START, code="request_in_progress", status=409)
    script.refuse(START, code="request_in_progress", status=409)
    script.answer(START, {"operations": [an_operation()]}, status=202)

    outcome = aima("--url", f"{dying.url},{script.url}", "service", "start", SERVICE)

    assert outcome.code == 0
    assert len({request.headers["Idempotency-Key"] for request in script.asked(START)}) == 1


def test_a_removal_whose_reply_was_lost_is_not_repeated(dying: LosesReplies, script: StandIn, aima: Aima) -> None:
    outcome = aima("--url", f"{dying.url},{script.url}", "service", "remove", SERVICE)

    assert outcome.code == ApiUnavailable.exit_code
    assert [method for method, _ in dying.received] == ["DELETE"]
    assert script.received == []


def test_a_removal_goes_to_the_node_that_is_up(script: StandIn, aima: Aima) -> None:
    script.answer("GET /healthz", {})
    script.answer(f"DELETE /v1/services/{SERVICE}", None, status=204)

    outcome = aima("--url", f"http://127.0.0.1:{free_port()},{script.url}", "service", "remove", SERVICE)

    assert outcome.code == 0


def test_a_refusal_is_not_sent_to_another_node(script: StandIn, aima: Aima) -> None:
    script.refuse(START, code=BrokerUnavailable.code, status=503)
    with stand_in_api() as second:
        outcome = aima("--url", f"{script.url},{second.url}", "service", "start", SERVICE)

        assert outcome.code == BrokerUnavailable.exit_code
        assert second.received == []


def test_when_no_node_answers_all_are_named(aima: Aima) -> None:
    one, two = (f"http://127.0.0.1:{free_port()}" for _ in range(2))

    outcome = aima("--url", f"{one},{two}", "service", "list")

    assert outcome.code == ApiUnavailable.exit_code
    assert outcome.err.startswith(f"error: No AIMA API answers at {one}, {two}: Connection refused\n")


@contextmanager
def _aima(*words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", MAIN, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def _loses_replies() -> Iterator[LosesReplies]:
    node = LosesReplies()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_POST(self) -> None:
            node.received.append((self.command, self.headers["Idempotency-Key"]))
            self.close_connection = True

        def do_DELETE(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http_server(Handler) as node.url:
        yield node


def _line(text: str, second: int) -> str:
    at = (BEGINNING + timedelta(seconds=second)).isoformat()
    return f"event: line\ndata: {json.dumps({'host': 'box', 'at': at, 'stream': 'stdout', 'text': text})}\n\n"
