"""What `aima model pull` and `aima model list --host` show: the dialogue of a fetch, on a terminal and in a log."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api.cli.stand_in import HOLD, ID, StandIn, a_failure, an_event, an_operation
from api.cli.terminal import Screen, run_on_terminal

PULL = "POST /v1/models/qwen3-32b:pull"
GB = 10**9
PROGRAM = [sys.executable, "-c", "from aima_api.cli.main import main; main()"]
COMMAND = [*PROGRAM, "model", "pull", "qwen3-32b", "--host", "spark-01", "--wait"]
SENTENCE = "Fetching qwen3-32b from hf:Qwen/Qwen3-32B@main (9216db5781bf)"


def fetched(received: float, verified: float, files: int, **more: Any) -> dict[str, Any]:
    sums = {"received": int(received * GB), "verified": int(verified * GB), "total": int(65.5 * GB)}
    return {"model": "qwen3-32b", **sums, "files_done": files, "files": 26, **more}


def progress(seq: int, after: float, *numbers: Any, **more: Any) -> str:
    return an_event(seq, "fetching", after=after, host="spark-01", fetch=fetched(*numbers, **more))


FETCHING = [
    an_event(1, "queued"),
    an_event(2, "fetching", after=1, host="spark-01", message=SENTENCE),
    progress(3, 10, 1.1, 0.0, 2, rate=112e6, eta="9m35s"),
    progress(4, 200, 20.5, 15.8, 9, rate=110e6, eta="6m49s"),
]
WAITING = [
    progress(5, 201, 20.5, 15.8, 9, waits_for="huggingface.co: 429 Too Many Requests; it asks to wait 30s"),
    an_event(6, "fetching", after=202, host="spark-01", message="Waiting for huggingface.co: 429 Too Many Requests."),
]
END = [
    progress(7, 600, 65.5, 65.5, 26),
    an_event(
        8,
        "pulled",
        after=601,
        name="end",
        host="spark-01",
        message="qwen3-32b at 9216db5781bf is on spark-01 (26 files, 65.5 GB, verified).",
    ),
]


@pytest.fixture
def pulled(script: StandIn) -> StandIn:
    operation = an_operation(kind="pull-model", service=None, model="qwen3-32b", route="host.spark-01")
    script.answer(PULL, {"operations": [operation]}, status=202)
    return script


def environment(script: StandIn) -> dict[str, str]:
    hidden = ("NO_COLOR", "COLUMNS", "LINES", "TERM")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"AIMA_URL": script.url}


def said_without_a_terminal(script: StandIn, *words: str) -> str:
    done = subprocess.run(
        [*PROGRAM, *words] if words else COMMAND,
        env=environment(script) | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_pull_in_a_log_has_a_line_per_step_and_per_tenth(pulled: StandIn, snapshot) -> None:
    pulled.stream(*FETCHING, *WAITING, *END)

    assert said_without_a_terminal(pulled) == snapshot


def test_a_pull_on_a_terminal_shows_received_and_verified_bytes_apart(pulled: StandIn, snapshot) -> None:
    pulled.stream(*FETCHING, HOLD)
    seen: list[str] = []

    def interrupt(output: str, enter: Any) -> None:
        screen = Screen(100)
        screen.write(output)
        if "20.5 GB" in screen.text and "left" in screen.text and not seen:  # not half of a frame
            seen.append(screen.text)
            enter(b"\x03")

    run_on_terminal(COMMAND, columns=100, environment=environment(pulled), on_output=interrupt)

    lines = seen[0].splitlines()
    assert [line.rstrip() for line in lines if "received" in line or "verified" in line or "left" in line] == snapshot


def test_a_failed_fetch_advises(pulled: StandIn, snapshot) -> None:
    failure = a_failure(
        "fetch_stalled",
        message="The fetch of qwen3-32b stalled: no byte arrived for 2m. huggingface.co: it sends nothing.",
        hint="What has arrived stays: start again once huggingface.co answers.",
        log_tail=[],
    )
    pulled.stream(*FETCHING, an_event(5, "failed", after=300, name="end", host="spark-01", failure=failure))

    assert said_without_a_terminal(pulled) == snapshot


def test_the_models_of_a_host_are_listed_with_how_far_they_are(script: StandIn, snapshot) -> None:
    three_days_ago = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    stored = {"host": "spark-01", "where": "store", "used_by": [], "published": True, "verified": True}
    items = [
        {**stored, "model": "qwen3-32b", "revision": "9216db5781bf" + "0" * 28, "name": "a", "size": 65_500_000_000}
        | {"received": 65_500_000_000, "used_by": ["svc-vllm-qwen3-32b@spark-01"], "pinned": True},
        {**stored, "model": "smollm2-135m", "revision": "1" * 40, "name": "b", "size": 98_000_000}
        | {"received": 41_000_000, "published": False, "verified": False},
        {**stored, "model": "kokoro", "revision": "2" * 40, "name": "c", "size": 300_000_000}
        | {"received": 300_000_000, "verified": False, "used_at": three_days_ago},
        {**stored, "where": "path", "model": "glm-4.7-flash", "revision": None, "name": "GLM-4.7-Flash", "size": None}
        | {"received": None, "verified": False},
    ]
    script.answer("GET /v1/models:stored", {"items": items, "next": None})

    assert said_without_a_terminal(script, "model", "list", "--host", "spark-01") == snapshot


COLLECTION = [
    {"model": "qwen3-32b", "revision": "9216db5781bf" + "0" * 28, "name": "a", "size": 65_500_000_000}
    | {"used_at": None, "freed": None, "kept": "mounted by svc-vllm-qwen3-32b@spark-01"},
    {"model": "kokoro", "revision": "2" * 40, "name": "c", "size": 300_000_000}
    | {"used_at": None, "freed": 120_000_000, "kept": None},
]
PRUNE = "POST /v1/models:prune"


def a_prune(script: StandIn, *, phase: str, message: str) -> None:
    """Submitted, streamed to its end, and recorded."""
    submitted = an_operation(kind="prune-models", service=None, route="host.spark-01")
    ended = {**submitted, "host": "spark-01", "state": "succeeded", "phase": phase, "reason": message, "seq": 2}
    script.answer(PRUNE, {"operations": [submitted]}, status=202)
    script.stream(an_event(1, "queued"), an_event(2, phase, after=1, name="end", host="spark-01", message=message))
    script.answer(f"GET /v1/operations/{ID}", {**ended, "collection": COLLECTION})


def test_a_dry_run_of_a_collection_is_a_table_with_the_reasons(script: StandIn, snapshot) -> None:
    a_prune(script, phase="done", message="1 of 2 models (120 MB) would be removed from spark-01.")

    said = said_without_a_terminal(script, "model", "prune", "--all", "--dry-run", "--host", "spark-01")

    assert said == snapshot
    assert [each.body for each in script.asked(PRUNE)] == [{"hosts": ["spark-01"], "all": True, "dry_run": True}]


def test_a_collection_says_what_it_has_freed(script: StandIn, snapshot) -> None:
    a_prune(script, phase="removed", message="1 of 2 models (120 MB) were removed from spark-01.")

    assert said_without_a_terminal(script, "model", "prune", "--wait") == snapshot
    assert said_without_a_terminal(script, "operation", "show", ID) == snapshot


@pytest.mark.parametrize("verb", ["pin", "unpin"])
def test_a_pin_is_asked_for_on_hosts(script: StandIn, verb: str) -> None:
    operation = an_operation(kind=f"{verb}-model", service=None, model="kokoro", route="host.spark-01")
    script.answer(f"POST /v1/models/kokoro:{verb}", {"operations": [operation]}, status=202)

    said = said_without_a_terminal(script, "model", verb, "kokoro", "--host", "spark-01")

    assert f"{verb.capitalize()}-model of kokoro" in said
    assert [each.body for each in script.asked(f"POST /v1/models/kokoro:{verb}")] == [{"hosts": ["spark-01"]}]


def test_a_pull_is_for_hosts_or_a_route(script: StandIn) -> None:
    said = said_without_a_terminal(script, "model", "pull", "x", "--host", "a", "--route", "gb10.arm64")

    assert "Specify --host, or --route and --site." in said
    assert script.received == []


def test_a_size_that_nobody_looked_up_is_shown_as_unresolved(script: StandIn) -> None:
    model = {"name": "Big", "type": "llm", "size": "0B", "engines": ["e"], "services": {}, "files": []}
    script.answer("GET /v1/models", {"items": [model], "next": None})

    assert "unresolved" in said_without_a_terminal(script, "model", "list")
