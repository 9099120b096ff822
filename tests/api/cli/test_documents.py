"""`aima apply`, `diff` and `export`: the changes on the terminal, what is asked and sent, and the exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import ID, StandIn, a_failure, an_event, an_operation
from api.cli.terminal import run_on_terminal
from syrupy.assertion import SnapshotAssertion

from aima_core.errors import DocumentMistake, DocumentsRefused, Drift, UnverifiedService

PLAN, APPLY, EXPORT = "POST /v1/apply:plan", "POST /v1/apply", "GET /v1/export"
A, B = "svc-tiny-a", "svc-tiny-b"
STOP = {"action": "stop", "host": "box", "route": "host.box", "fields": [], "moved_from": None, "reason": None}
CREATE = {**STOP, "action": "create", "host": None, "route": "cpu.amd64"}
RECREATE = {**STOP, "action": "recreate", "fields": ["port"]}
PENDING = {**STOP, "action": "pending", "reason": "box is not live; it waits until box is back."}


def a_change(action: str, name: str = A, kind: str = "service", **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "action": action, "fields": [], "instances": [], "failure": None, **fields}


def a_field(field: str, before: object, after: object) -> dict[str, object]:
    return {"field": field, "before": before, "after": after}


CHANGES = [
    a_change("create", fields=[a_field("hosts", None, ["box"]), a_field("model", None, "Dial")], instances=[CREATE]),
    a_change("change", B, fields=[a_field("port", 1, 2), a_field("labels.team", "x", None)], instances=[RECREATE]),
    a_change("change", "box", "host", fields=[a_field("labels.rack", None, "1")]),
    a_change("change", "svc-tiny-c", instances=[PENDING]),
    a_change("unchanged", "svc-tiny-d"),
    a_change("remove", "svc-tiny-old", instances=[STOP]),
]


@pytest.fixture
def file(tmp_path: Path) -> str:
    documents = [f"kind: service\nid: {id}\n" for id in (A, B)]
    (tmp_path / "fleet.yaml").write_text("---\n".join(documents))
    return str(tmp_path / "fleet.yaml")


def plan(script: StandIn, *changes: dict[str, Any]) -> None:
    script.answer(PLAN, {"items": changes, "digest": "abc"})


def test_the_changes_as_text(file: str, script: StandIn, aima: Aima, snapshot: SnapshotAssertion) -> None:
    plan(script, *CHANGES)

    outcome = aima("apply", "-f", file, "--dry-run")

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == snapshot
    assert script.asked(APPLY) == []


def test_what_was_shown_is_what_may_be_done(file: str, script: StandIn, aima: Aima) -> None:
    plan(script, *CHANGES[:2])
    script.answer(APPLY, {"operations": [an_operation()]}, status=202)

    outcome = aima("apply", "-f", file, "--owner", "text")

    [asked], [sent] = script.asked(PLAN), script.asked(APPLY)
    assert asked.body == {"documents": [{"kind": "service", "id": A}, {"kind": "service", "id": B}], "owner": "text"}
    assert sent.body == {**asked.body, "expected": "abc"}
    assert f"submitted as operation {ID}" in outcome.out


def test_nothing_is_sent_if_everything_is_unchanged(file: str, script: StandIn, aima: Aima) -> None:
    plan(script, a_change("unchanged"))

    assert aima("apply", "-f", file).out == "1 document: 1 unchanged.\n"
    assert script.asked(APPLY) == []


def test_a_mistake_in_a_file_is_reported_before_any_request(tmp_path: Path, script: StandIn, aima: Aima) -> None:
    (tmp_path / "fleet.yaml").write_text(f"kind: service\nid: {A}\nprt: 1\n")

    outcome = aima("apply", "-f", str(tmp_path))

    assert outcome.code == DocumentMistake.exit_code
    assert "fleet.yaml:3:1: prt: there is no such field; did you mean `port`?" in outcome.err
    assert script.received == []


@pytest.mark.parametrize("command", ["apply", "diff"])
def test_a_refusal_names_the_place_of_its_document(command: str, file: str, script: StandIn, aima: Aima) -> None:
    plan(script, a_change("create"), a_change("refused", B, failure=a_failure(code="unknown_engine")))

    outcome = aima(command, "-f", file)

    assert outcome.code == DocumentsRefused.exit_code
    assert f"{file}:4: {B} [unknown_engine]: The engine ended" in outcome.err
    assert "Nothing was changed: 1 document refused." in outcome.err
    assert script.asked(APPLY) == []


def test_drift_has_an_exit_code_of_its_own(file: str, script: StandIn, aima: Aima) -> None:
    plan(script, a_change("unchanged"), CHANGES[1])
    drifted, as_json = aima("diff", "-f", file), aima("diff", "-f", file, "-o", "json")

    assert drifted.code == as_json.code == Drift.exit_code
    assert "1 of 2 documents differ" in drifted.err
    assert json.loads(as_json.out)[1]["instances"][0]["action"] == "recreate"


def test_what_is_pruned_is_removed_once_it_has_stopped(file: str, script: StandIn, aima: Aima) -> None:
    stop = an_operation(kind="stop", service="svc-tiny-old", route="host.box")
    plan(script, CHANGES[-1])
    script.answer(APPLY, {"operations": [stop]}, status=202)
    script.stream(an_event(1, "stopping"), an_event(2, "stopped", after=1, name="end", host="box"))
    script.answer("DELETE /v1/services/svc-tiny-old", None, status=204)

    outcome = aima("apply", "-f", file, "--owner", "text", "--prune", "--yes")

    assert outcome.code == 0
    assert "Service svc-tiny-old removed." in outcome.err
    assert len(script.asked("DELETE /v1/services/svc-tiny-old")) == 1


def test_a_prune_does_not_wait_for_a_host_that_is_away(file: str, script: StandIn, aima: Aima) -> None:
    away = an_operation(kind="stop", service="svc-tiny-old", route="host.box", reason="box is not live.")
    plan(script, CHANGES[-1])
    script.answer(APPLY, {"operations": [away]}, status=202)

    outcome = aima("apply", "-f", file, "--owner", "text", "--prune", "--yes")

    assert outcome.code == 0
    assert "Service svc-tiny-old waits to be stopped by box" in outcome.err
    assert script.asked("DELETE /v1/services/svc-tiny-old") == []


def test_pruning_requires_an_owner(file: str, script: StandIn, aima: Aima) -> None:
    outcome = aima("apply", "-f", file, "--prune")

    assert (outcome.code, script.received) == (2, [])
    assert "--prune requires --owner NAME." in outcome.err


@pytest.mark.parametrize(("typed", "applied"), [(b"n\n", 0), (b"y\n", 1)])
def test_a_terminal_is_asked(typed: bytes, applied: int, file: str, script: StandIn) -> None:
    plan(script, CHANGES[0])
    script.answer(APPLY, {"operations": []}, status=202)
    left = [typed]

    def answer(output: str, type: Callable[[bytes], None]) -> None:
        if "Apply these changes?" in output and left:
            type(left.pop())

    command = [
        sys.executable,
        "-c",
        "from aima_api.cli.main import main; main()",
        "--url",
        script.url,
        "apply",
        "-f",
        file,
    ]
    code, output = run_on_terminal(command, columns=100, environment=os.environ, on_output=answer)

    assert code == 0, output
    assert len(script.asked(APPLY)) == applied
    assert ("Nothing was changed." in output) is not applied


def test_an_export_is_yaml_and_names_what_it_lacks(script: StandIn, aima: Aima) -> None:
    documents = [
        {"kind": "service", "id": A, "model": "\x1b]0;x"},
        {"kind": "host", "name": "box", "labels": {"a": "1"}},
    ]
    script.answer(EXPORT, {"documents": documents, "failures": [a_failure(code="unverified_service")]})

    outcome = aima("export")

    assert outcome.code == UnverifiedService.exit_code
    assert outcome.out == (
        f"kind: service\nid: {A}\nmodel: \"\\e]0;x\"\n---\nkind: host\nname: box\nlabels:\n  a: '1'\n"
    )


def test_an_export_of_some_services(script: StandIn, aima: Aima) -> None:
    script.answer(f"GET /v1/services/{A}", {"id": A})
    script.answer(EXPORT, {"documents": [], "failures": []})

    assert json.loads(aima("export", "--service", A, "-o", "json").out) == []
    assert script.asked(EXPORT)[0].path == f"/v1/export?service={A}"
