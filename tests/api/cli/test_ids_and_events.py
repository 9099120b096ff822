"""Shortened ids, several ids at once, short names of commands, watched listings, and the events of all operations."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import BEGINNING, HOLD, ID, StandIn, an_event, an_operation

from aima_core.errors import AmbiguousId, UnknownHost, UnknownService

DIAL, OTHER = "svc-tiny-dial", "svc-tts-espeak-en"
_MAIN = "import sys; from aima_api.cli.main import run; sys.exit(run(sys.argv[1:]))"


def a_service(id: str, *hosts: str) -> dict[str, Any]:
    instances = [
        {"id": f"{id}@{host}", "host": host, "state": "ready", "since": BEGINNING.isoformat()} for host in hosts
    ]
    return {"id": id, "created_at": BEGINNING.isoformat(), "instances": instances}


def two_services(script: StandIn) -> None:
    script.answer("GET /v1/services", {"items": [a_service(DIAL, "box"), a_service(OTHER)], "next": None})
    for id in (DIAL, OTHER):
        script.answer(f"GET /v1/services/{id}", a_service(id, "box"))
        script.answer(f"POST /v1/services/{id}:stop", {"operations": [an_operation(kind="stop", service=id)]})


# Shortened ids -------------------------------------------------------------------------------------------------------


def test_a_unique_beginning_of_an_id_is_enough(script: StandIn, aima: Aima) -> None:
    two_services(script)

    assert aima("service", "show", "svc-ti").out.startswith(f"id          {DIAL}\n")
    assert f"Stop of {OTHER}" in aima("service", "stop", "svc-tt").out


def test_a_beginning_of_several_ids_is_refused_and_names_them(script: StandIn, aima: Aima) -> None:
    two_services(script)

    outcome = aima("service", "stop", "svc-t")

    assert outcome.code == AmbiguousId.exit_code
    assert f"`svc-t` is the beginning of 2 ids: {DIAL}, {OTHER}." in outcome.err
    assert script.asked(f"POST /v1/services/{DIAL}:stop") == []


def test_an_unknown_id_keeps_its_own_refusal(script: StandIn, aima: Aima) -> None:
    two_services(script)
    script.refuse("GET /v1/services/svc-vllm-x", code="unknown_service", status=404)

    assert aima("service", "show", "svc-vllm-x").code == UnknownService.exit_code


def test_hosts_and_operations_may_be_shortened_as_well(script: StandIn, aima: Aima) -> None:
    script.refuse("POST /v1/hosts/spark:resume", code="unknown_host", status=404)
    script.answer("GET /v1/hosts", {"items": [{"name": "spark-01"}, {"name": "box"}], "next": None})
    script.answer("POST /v1/hosts/spark-01:resume", {"name": "spark-01", "live": True})
    script.answer("GET /v1/operations", {"items": [an_operation()], "next": None})
    script.answer(f"GET /v1/operations/{ID}", an_operation())

    assert aima("host", "resume", "spark").out == "Host spark-01 resumed.\n"
    assert ID in aima("operation", "show", ID[:6]).out


# Several ids ---------------------------------------------------------------------------------------------------------


def test_several_services_are_stopped_by_one_command(script: StandIn, aima: Aima) -> None:
    two_services(script)

    outcome = aima("service", "stop", DIAL, OTHER)

    assert outcome.code == 0
    assert [line.partition(" submitted")[0] for line in outcome.out.splitlines()] == [
        f"Stop of {DIAL}",
        f"Stop of {OTHER}",
    ]


def test_all_services_are_stopped_and_none_is_without_being_named(script: StandIn, aima: Aima) -> None:
    two_services(script)

    assert aima("service", "stop").code == 2
    assert script.received == []
    assert aima("service", "stop", "--all").out.count("Stop of") == 2


@pytest.mark.parametrize(
    ("action", "request_of"),
    [
        ("start", "POST /v1/services/{}:start"),
        ("stop", "POST /v1/services/{}:stop"),
        ("restart", "POST /v1/services/{}:restart"),
        ("remove", "DELETE /v1/services/{}"),
    ],
)
def test_an_action_takes_exactly_the_services_with_a_label(
    action: str, request_of: str, script: StandIn, aima: Aima
) -> None:
    labelled = a_service(DIAL, "box") | {"labels": {"team": "speech"}}
    script.answer("GET /v1/services", {"items": [labelled, a_service(OTHER)], "next": None})
    for id in (DIAL, OTHER):
        script.answer(request_of.format(id), {"operations": [an_operation(service=id)]})

    taken, none = aima("service", action, "-l", "team=speech"), aima("service", action, "-l", "team=text")

    assert (taken.code, none.code) == (0, 0), taken.err
    assert [len(script.asked(request_of.format(id))) for id in (DIAL, OTHER)] == [1, 0]
    assert "No service has team=text." in none.err
    assert aima("service", action, DIAL, "-l", "team=speech").code == 2


def test_a_refused_id_does_not_keep_the_others_from_being_served(script: StandIn, aima: Aima) -> None:
    two_services(script)
    script.refuse("POST /v1/services/svc-vllm-x:stop", code="unknown_service", status=404)

    outcome = aima("service", "stop", "svc-vllm-x", OTHER)

    assert outcome.code == UnknownService.exit_code
    assert "code: unknown_service" in outcome.err
    assert f"Stop of {OTHER}" in outcome.out


# Short names and watched listings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "long"), [(["service", "ls"], ["service", "list"]), (["service", "status"], ["service", "show"])]
)
def test_short_names_of_commands_are_accepted(short: list[str], long: list[str], script: StandIn, aima: Aima) -> None:
    two_services(script)

    assert aima(*short).out == aima(*long).out


def test_a_watched_listing_is_printed_again_only_when_it_has_changed(
    script: StandIn, aima: Aima, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ids in ([DIAL], [DIAL], [DIAL, OTHER]):
        script.answer("GET /v1/services", {"items": [a_service(id) for id in ids], "next": None})
    passes = iter(range(2))
    monkeypatch.setattr("aima_api.cli.options.time.sleep", lambda _: next(passes, None) is None and interrupted())

    outcome = aima("service", "list", "--watch", "-o", "name")

    assert outcome.code == 130
    assert outcome.out == f"{DIAL}\n\n{DIAL}\n{OTHER}\n"


def interrupted() -> None:
    raise KeyboardInterrupt


# Events --------------------------------------------------------------------------------------------------------------


def recorded(script: StandIn, *events: dict[str, Any]) -> None:
    script.answer("GET /v1/events/recent", {"items": list(events), "last": "5-0"})
    script.answer(f"GET /v1/operations/{ID}", an_operation(service=DIAL))


def an_entry(phase: str, **fields: Any) -> dict[str, Any]:
    return {"operation": ID, "seq": 1, "at": BEGINNING.isoformat(), "phase": phase, **fields}


def test_the_last_events_name_their_operation_host_and_reason(script: StandIn, aima: Aima) -> None:
    failure = {"code": "x", "message": "It ended.", "hint": "Look."}
    recorded(script, an_entry("pulling", host="box"), an_entry("failed", host="box", failure=failure))

    lines = [line.partition("  ")[2] for line in aima("events").out.splitlines()]

    assert lines == [f"start {DIAL} on box: pulling", f"start {DIAL} on box: failed  It ended."]
    assert len(script.asked(f"GET /v1/operations/{ID}")) == 1


def test_json_has_one_event_per_line(script: StandIn, aima: Aima) -> None:
    recorded(script, an_entry("pulling"), an_entry("ready"))

    lines = aima("events", "-o", "json").out.splitlines()

    assert [json.loads(line)["phase"] for line in lines] == ["pulling", "ready"]


def test_followed_events_continue_after_the_recent_ones_and_across_a_lost_connection(script: StandIn) -> None:
    recorded(script, an_entry("queued"))
    first, second = an_event(1, "pulling").replace("id: 1", "id: 6-0"), an_event(2, "ready").replace("id: 2", "id: 7-0")
    script.streams["/v1/events"] = [[first], [second, HOLD]]
    command = [sys.executable, "-c", _MAIN, "--url", script.url, "events", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as following:
        assert following.stdout is not None
        phases = [following.stdout.readline().rpartition(": ")[2].strip() for _ in range(3)]
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=60)

    assert phases == ["queued", "pulling", "ready"]
    assert [each.headers.get("Last-Event-ID") for each in script.asked("GET /v1/events")] == ["5-0", "6-0"]
    assert following.returncode == 130


def test_an_unknown_host_is_still_refused_as_such(script: StandIn, aima: Aima) -> None:
    script.refuse("GET /v1/hosts/nowhere", code="unknown_host", status=404)
    script.answer("GET /v1/hosts", {"items": [{"name": "box"}], "next": None})

    assert aima("host", "show", "nowhere").code == UnknownHost.exit_code
