"""The output while an operation runs, and the exit code at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import (
    CUT,
    HOLD,
    ID,
    SERVICE,
    StandIn,
    a_failure,
    a_pull,
    an_event,
    an_operation,
)
from lab.parts import eventually
from syrupy.assertion import SnapshotAssertion

from aima_core.errors import ContainerExited, DeadlinePassed, PullBroken, UnknownService

START = f"POST /v1/services/{SERVICE}:start"
OTHER = "1b5f4c1e-3c1c-4a52-9c55-3f8a3a0f9f21"
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture
def started(script: StandIn) -> StandIn:
    script.answer(START, {"operations": [an_operation()]}, status=202)
    return script


def test_a_whole_start_in_plain_lines(started: StandIn, aima: Aima, snapshot: SnapshotAssertion) -> None:
    unknown = a_pull(0, 0, 0, total_known=False)
    started.stream(
        an_event(1, "queued", message="waiting for a host of cpu.amd64"),
        an_event(2, "pulling", after=1, host="box", message="llama:1", progress=unknown),
        an_event(
            3, "pulling", after=2, name="progress", progress=a_pull(60_000_000, 2_000_000, 98_000_000, rate=4.1e6)
        ),
        an_event(4, "pulling", after=3, name="progress", progress=a_pull(61_000_000, 2_000_000, 98_000_000)),
        an_event(5, "pulling", after=4, name="progress", progress=a_pull(98_000_000, 98_000_000, 98_000_000)),
        an_event(6, "starting", after=9.1),
        an_event(7, "loading", after=9.5),
        an_event(8, "loading", after=9.6, name="log", lines=["loading weights", "warming up"]),
        an_event(9, "ready", after=12.3, name="end", endpoint="http://127.0.0.1:20000"),
    )

    outcome = aima("service", "start", SERVICE, "--wait")

    assert outcome.code == 0
    assert outcome.out == snapshot
    assert outcome.err == ""


def test_a_failed_start_exits_with_the_message_and_code_of_its_failure(
    started: StandIn, aima: Aima, snapshot: SnapshotAssertion
) -> None:
    started.stream(an_event(1, "starting"), an_event(2, "failed", name="end", failure=a_failure()))

    outcome = aima("service", "start", SERVICE, "--wait")

    assert outcome.code == ContainerExited.exit_code
    assert outcome.err == snapshot


def test_a_lost_connection_is_reported_and_the_stream_continues(started: StandIn, aima: Aima) -> None:
    started.stream(an_event(1, "starting"), CUT)
    started.stream(CUT)
    started.stream(an_event(2, "loading"), an_event(3, "ready", name="end"))

    outcome = aima("service", "start", SERVICE, "--wait")

    assert outcome.code == 0
    assert outcome.out.count("connection lost, trying again") == 1
    assert outcome.out.index("connection lost") < outcome.out.index("Loading")


def test_escapes_of_an_engine_do_not_reach_the_terminal(started: StandIn, aima: Aima) -> None:
    failure = a_failure(message=ESCAPE, hint=ESCAPE, log_tail=[ESCAPE])
    started.stream(
        an_event(1, "loading", message=ESCAPE, lines=[ESCAPE]),
        an_event(2, "failed", name="end", failure=failure),
    )

    outcome = aima("service", "start", SERVICE, "--wait")

    assert "owned" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err
    assert "\x07" not in outcome.out + outcome.err


def test_without_wait_the_next_command_is_named(started: StandIn, aima: Aima, snapshot: SnapshotAssertion) -> None:
    outcome = aima("service", "start", SERVICE)

    assert outcome.code == 0
    assert outcome.out + outcome.err == snapshot


def test_a_timeout_ends_only_the_watching(started: StandIn, aima: Aima) -> None:
    started.stream(an_event(1, "pulling"), HOLD)

    outcome = aima("service", "start", SERVICE, "--timeout", "200ms")

    assert outcome.code == DeadlinePassed.exit_code
    assert f"aima operation show {ID}" in outcome.err
    assert not started.asked(f"POST /v1/operations/{ID}:cancel")


def test_several_hosts_get_a_line_each_and_the_first_failure_determines_the_exit_code(
    script: StandIn, aima: Aima, snapshot: SnapshotAssertion
) -> None:
    operations = [an_operation(route="host.a"), an_operation(id=OTHER, route="host.b")]
    script.answer(START, {"operations": operations}, status=202)
    script.stream(an_event(1, "ready", after=2, name="end", endpoint="http://a:20000"))
    failure = a_failure(PullBroken.code, message="The pull broke.", log_tail=[])
    script.stream(an_event(1, "failed", operation=OTHER, name="end", failure=failure), operation=OTHER)

    outcome = aima("service", "start", SERVICE, "--host", "a", "--host", "b", "--wait")

    assert outcome.code == PullBroken.exit_code
    assert sorted(outcome.out.splitlines()) + outcome.err.splitlines() == snapshot


@pytest.mark.parametrize(
    ("instance", "expose", "shown"),
    [
        ({"serves": ["chat"]}, False, "http://gateway:7090/v1"),
        ({"serves": ["chat"]}, True, "http://127.0.0.1:20000"),
        ({"serves": []}, False, "http://127.0.0.1:20000"),
    ],
)
def test_a_start_ends_with_the_url_of_the_gateways_unless_the_instance_is_reached_at_its_port(
    started: StandIn, aima: Aima, instance: dict[str, object], expose: bool, shown: str
) -> None:
    started.stream(an_event(1, "ready", after=2, name="end", endpoint="http://127.0.0.1:20000"))
    service = {"expose": expose, "instances": [instance], "inference_url": "http://gateway:7090/v1"}
    started.answer(f"GET /v1/services/{SERVICE}", service)

    outcome = aima("service", "start", SERVICE, "--wait")

    assert outcome.out.splitlines()[-2].endswith(f"ready in 2.0 s at {shown}")


def test_with_json_stdout_contains_only_the_record(started: StandIn, aima: Aima) -> None:
    started.stream(an_event(1, "ready", name="end"))
    started.answer(f"GET /v1/operations/{ID}", an_operation(state="succeeded", phase="ready"))

    outcome = aima("service", "start", SERVICE, "--wait", "-o", "json")

    assert [record["state"] for record in json.loads(outcome.out)] == ["succeeded"]
    assert "ready in" in outcome.err


def test_a_refused_start_exits_with_the_code_of_the_refusal(script: StandIn, aima: Aima) -> None:
    script.refuse(START, code=UnknownService.code, status=404, detail="There is no such thing.", hint="Look around.")

    outcome = aima("service", "start", SERVICE, "--wait")

    assert outcome.code == UnknownService.exit_code
    assert outcome.err == "error: There is no such thing.\nhint: Look around.\ncode: unknown_service\n"


def test_ctrl_c_ends_only_the_watching_and_names_the_next_command(
    started: StandIn, snapshot: SnapshotAssertion
) -> None:
    started.stream(an_event(1, "pulling", message="llama:1"), HOLD)
    command = [
        sys.executable,
        "-c",
        "from aima_api.cli.main import main; main()",
        "service",
        "start",
        SERVICE,
        "--wait",
    ]
    environment = os.environ | {"AIMA_URL": started.url, "PYTHONUNBUFFERED": "1"}

    watching = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert "Pulling" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=60)

    assert watching.returncode == 130
    assert said == snapshot
    assert eventually(lambda: not started.asked(f"POST /v1/operations/{ID}:cancel"))
