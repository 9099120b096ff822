"""`aima service logs`: lines on stdout, notes on stderr, each line exactly once across reconnects."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import BEGINNING, CUT, HOLD, SERVICE, StandIn
from api.cli.terminal import run_on_terminal

from aima_api.cli.progress import log_follower
from aima_api.cli.progress.event_follower import Reconnect
from aima_api.client import Api, ApiError
from aima_core.errors import exit_code_of

_MAIN = "from aima_api.cli.main import main; main()"
PATH = f"/v1/services/{SERVICE}/logs"


@pytest.fixture
def two_hours_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "UTC-2")
        time.tzset()
        yield
    time.tzset()


def test_lines_go_to_stdout_and_notes_to_stderr(aima: Aima, script: StandIn) -> None:
    _runs_on(script, "box")
    script.answer(f"GET {PATH}", {"items": [a_line("one"), a_line("two", stream="stderr")], "notes": ["box is away."]})

    outcome = aima("service", "logs", SERVICE)

    assert (outcome.code, outcome.out) == (0, "one\ntwo\n")
    assert outcome.err == "── box is away.\n"


def test_options_become_query_parameters(aima: Aima, script: StandIn) -> None:
    _runs_on(script, "box")
    script.answer(f"GET {PATH}", {"items": [], "notes": []})

    aima("service", "logs", SERVICE, "--tail", "7", "--since", "10m", "--host", "a", "--host", "b")

    assert _asked(script)[0] == {"tail": ["7"], "since": ["10m"], "host": ["a", "b"]}


def test_lines_of_several_hosts_are_prefixed_with_their_host(aima: Aima, script: StandIn) -> None:
    _runs_on(script, "box", "spark-01")
    script.answer(f"GET {PATH}", {"items": [a_line("one"), a_line("two", host="spark-01")], "notes": []})

    assert aima("service", "logs", SERVICE).out == "box      │ one\nspark-01 │ two\n"


def test_timestamps_are_printed_on_request(aima: Aima, script: StandIn, two_hours_east: None) -> None:
    _runs_on(script, "box", "spark-01")
    script.answer(f"GET {PATH}", {"items": [a_line("one"), a_line("two", host="spark-01", at=90)], "notes": []})

    shown = aima("service", "logs", SERVICE, "--timestamps").out

    assert shown == "box      │ 2026-01-01 14:00:00  one\nspark-01 │ 2026-01-01 14:01:30  two\n"


def test_timestamps_are_printed_by_default_on_a_terminal(script: StandIn) -> None:
    _runs_on(script, "box")
    script.answer(f"GET {PATH}", {"items": [a_line("one")], "notes": []})
    command = [sys.executable, "-c", _MAIN, "--url", script.url, "service", "logs", SERVICE]

    code, output = run_on_terminal(command, columns=80, environment={**os.environ, "TZ": "UTC"})

    assert (code, output.splitlines()[-1]) == (0, "2026-01-01 12:00:00  one")


def test_json_output_has_one_record_per_line(aima: Aima, script: StandIn) -> None:
    _runs_on(script, "box")
    script.answer(f"GET {PATH}", {"items": [a_line("\x1b]0;é")], "notes": []})

    outcome = aima("service", "logs", SERVICE, "-o", "json")

    assert json.loads(outcome.out) == a_line("\x1b]0;é")
    assert outcome.out.isascii()
    assert "\x1b" not in outcome.out


def test_a_follow_resumes_after_the_last_line(aima: Aima, script: StandIn) -> None:
    _runs_on(script, "box")
    script.streams[PATH] = [
        [_event("line", a_line("one", at=1)), _event("line", a_line("two", at=2)), CUT],
        [_event("line", a_line("two", at=2)), _event("line", a_line("three", at=3)), _event("end", {})],
    ]

    outcome = aima("service", "logs", SERVICE, "--follow", "--tail", "5")

    assert (outcome.code, outcome.out) == (0, "one\ntwo\nthree\n")
    assert "Connection lost, trying again." in outcome.err
    first, again = _asked(script)
    assert first == {"tail": ["5"], "follow": ["true"]}
    assert again["since"] == [(BEGINNING + timedelta(seconds=1)).isoformat()]
    assert again["tail"] == ["10000"]


def test_a_follow_of_an_unknown_service_is_refused(aima: Aima, script: StandIn) -> None:
    script.refuse(f"GET /v1/services/{SERVICE}", code="unknown_service", status=404)

    assert aima("service", "logs", SERVICE, "--follow").code == 12


def test_an_api_that_stays_unreachable_fails_the_follow(
    api: Api, script: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    script.streams[PATH] = [[_event("line", a_line("one")), CUT]]
    script.refuse(f"GET {PATH}", code="broker_unavailable", status=503)
    slept = list[float]()
    reconnect = Reconnect(timeout=timedelta(seconds=1), sleep=slept.append, clock=lambda: sum(slept))

    with pytest.raises(ApiError) as refused:
        log_follower.follow(api, PATH, {}, log_follower.Show("text", ["box"]), reconnect=reconnect)

    assert exit_code_of(refused.value.failure.code) == 80
    assert capsys.readouterr().out == "one\n"


def test_stderr_is_dim_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, aima: Aima, script: StandIn) -> None:
    monkeypatch.setattr(log_follower, "colours", lambda: True)
    echoed: list[str] = []
    monkeypatch.setattr(log_follower.click, "echo", lambda text, **_: echoed.append(text))
    show = log_follower.Show("text", ["box"])

    show.line(a_line("fine"))
    show.line(a_line("alas", stream="stderr"))

    assert echoed == ["fine", "\x1b[2malas\x1b[0m"]


def test_ctrl_c_ends_a_follow_without_an_error(script: StandIn) -> None:
    _runs_on(script, "box")
    script.streams[PATH] = [[_event("line", a_line("one")), HOLD]]
    command = [sys.executable, "-c", _MAIN, "--url", script.url, "service", "logs", SERVICE, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "one\n"

        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=60)

    assert (following.returncode, out, err) == (130, "", "")


def a_line(text: str, *, host: str = "box", stream: str = "stdout", at: float = 0) -> dict[str, Any]:
    return {"at": (BEGINNING + timedelta(seconds=at)).isoformat(), "stream": stream, "text": text, "host": host}


def _runs_on(script: StandIn, *hosts: str) -> None:
    script.answer(f"GET /v1/services/{SERVICE}", {"instances": [{"id": f"{SERVICE}@{host}"} for host in hosts]})


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _asked(script: StandIn) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(each.path).query) for each in script.asked(f"GET {PATH}")]
