"""`aima plan`, `aima host drain` and `aima host resume`: their requests, output and exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from api.cli.outcome import Aima
from api.cli.stand_in import ID, SERVICE, StandIn, an_event, an_operation
from syrupy.assertion import SnapshotAssertion

from aima_core.errors import RequirementsNotMet, UnknownHost, WouldWait

PLAN = f"POST /v1/services/{SERVICE}:plan"
DRAIN = "POST /v1/hosts/box:drain"
RESUME = "POST /v1/hosts/box:resume"
GB = 10**9
BOX = {"name": "box", "live": True, "drained": True, "drained_since": "2026-01-01T12:00:00Z"}


def an_obstacle(obstacle: str, sentence: str, *, passes: bool = True) -> dict[str, Any]:
    return {"obstacle": obstacle, "sentence": sentence, "passes": passes}


FULL = an_obstacle("memory", "needs 92 GB memory (host: 20 GB free)")
HOSTS = [
    {"host": "box", "would_do": False, "why_not": [an_obstacle("arch", "needs arm64 (host: amd64)", passes=False)]},
    {"host": "spark-01", "would_do": True, "why_not": []},
    {"host": "spark-02", "would_do": False, "why_not": [FULL, an_obstacle("drained", "drained")]},
]
STARTS = {
    "service": SERVICE,
    "verdict": "starts",
    "failure": None,
    "engine": "vllm-1",
    "model": "GLM-4.7-Flash",
    "needs": {"memory": 32 * GB, "gpus": 1, "gpu_memory": 60 * GB, "cores": 8},
    "routes": ["gb10.arm64"],
    "instances": [],
    "operations": [
        {
            "kind": "start",
            "route": "host.spark-01",
            "host": "spark-01",
            "image": "vllm:1",
            "image_there": True,
            "port": 20005,
            "reason": None,
        }
    ],
    "hosts": HOSTS,
}
ON_A_CLASS = STARTS["operations"][0] | {"route": "gb10.arm64", "host": None, "image_there": None, "port": None}
WAITS = STARTS | {
    "verdict": "waits",
    "failure": WouldWait(detail="No host of gb10.arm64 has capacity now.").failure.model_dump(mode="json"),
    "operations": [ON_A_CLASS | {"reason": "No host of gb10.arm64 has capacity now."}],
}
REFUSED = STARTS | {
    "verdict": "refused",
    "failure": RequirementsNotMet(host="box", engine="vllm-1", detail="it is small.").failure.model_dump(mode="json"),
    "operations": [],
}


@pytest.mark.parametrize(
    ("found", "code"),
    [(STARTS, 0), (WAITS, WouldWait.exit_code), (REFUSED, RequirementsNotMet.exit_code)],
    ids=["starts", "waits", "refused"],
)
def test_a_plan_as_a_table(
    found: dict[str, Any], code: int, script: StandIn, aima: Aima, snapshot: SnapshotAssertion
) -> None:
    script.answer(PLAN, found)

    outcome = aima("plan", SERVICE)

    assert outcome.code == code
    assert outcome.out == snapshot(name="out")
    assert outcome.err == snapshot(name="err")


def test_a_plan_shows_what_each_host_would_fetch_and_for_how_long(
    script: StandIn, aima: Aima, snapshot: SnapshotAssertion
) -> None:
    fetches = [(0, None), (60 * GB, "8m56s"), (60 * GB, None), (None, None)]
    hosts = [
        {"host": f"spark-0{number}", "would_do": True, "why_not": [], "to_fetch": missing, "fetch_takes": takes}
        for number, (missing, takes) in enumerate(fetches, 1)
    ]
    script.answer(PLAN, STARTS | {"operations": [ON_A_CLASS | {"first": "spark-01"}], "hosts": hosts})

    assert aima("plan", SERVICE).out == snapshot


def test_a_plan_as_json_is_the_response_of_the_api(script: StandIn, aima: Aima) -> None:
    script.answer(PLAN, WAITS)

    as_json, as_yaml = aima("plan", SERVICE, "-o", "json"), aima("plan", SERVICE, "-o", "yaml")

    assert json.loads(as_json.out) == yaml.safe_load(as_yaml.out) == WAITS
    assert as_json.code == WouldWait.exit_code


def test_a_plan_takes_the_options_of_a_start(script: StandIn, aima: Aima) -> None:
    script.answer(PLAN, STARTS)

    aima("plan", SERVICE, "--replicas", "3", "--route", "gb10.arm64", "--set", "max-model-len=8192")

    [asked] = script.asked(PLAN)
    assert asked.body == {"replicas": 3, "route": "gb10.arm64", "arguments": {"max-model-len": 8192}}


# Draining ---------------------------------------------------------------------------------------------------------


def test_draining_says_how_to_undo_it(script: StandIn, aima: Aima) -> None:
    script.answer(DRAIN, {"host": BOX, "operations": []}, status=202)

    outcome = aima("host", "drain", "box")

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "Host box drained. It takes no starts until `aima host resume box`.\n"
    assert script.asked(DRAIN)[0].body == {"stop": False}


def test_draining_with_stop_can_wait_for_the_stops(script: StandIn, aima: Aima) -> None:
    stop = an_operation(kind="stop", route="host.box")
    script.answer(DRAIN, {"host": BOX, "operations": [stop]}, status=202)
    script.stream(an_event(1, "stopping"), an_event(2, "stopped", after=1, name="end", host="box"))

    outcome = aima("host", "drain", "box", "--stop", "--wait")

    assert outcome.code == 0
    assert "Host box drained." in outcome.out
    assert f"✓ {SERVICE} on box: stopped in 1.0 s" in outcome.out
    assert script.asked(DRAIN)[0].body == {"stop": True}


def test_draining_with_stop_says_how_to_follow_the_stops(script: StandIn, aima: Aima) -> None:
    stop = an_operation(kind="stop", route="host.box")
    script.answer(DRAIN, {"host": BOX, "operations": [stop]}, status=202)

    outcome = aima("host", "drain", "box", "--stop")

    assert f"Stop of {SERVICE} on box submitted as operation {ID}." in outcome.out
    assert f"aima operation watch {ID}" in outcome.err


def test_draining_and_resuming_as_json(script: StandIn, aima: Aima) -> None:
    drained = {"host": BOX, "operations": []}
    script.answer(DRAIN, drained, status=202)
    script.answer(RESUME, BOX | {"drained": False, "drained_since": None})

    assert json.loads(aima("host", "drain", "box", "-o", "json").out) == drained
    assert yaml.safe_load(aima("host", "resume", "box", "-o", "yaml").out)["drained"] is False


@pytest.mark.parametrize(
    ("live", "said"),
    [(True, "Host box resumed.\n"), (False, "Host box resumed. It takes starts once its worker is back.\n")],
)
def test_resuming_names_the_next_step(live: bool, said: str, script: StandIn, aima: Aima) -> None:
    script.answer(RESUME, BOX | {"live": live, "drained": False, "drained_since": None})

    assert aima("host", "resume", "box").out == said


@pytest.mark.parametrize("command", ["drain", "resume"])
def test_an_unknown_host_exits_with_its_own_code(command: str, script: StandIn, aima: Aima) -> None:
    script.refuse(f"POST /v1/hosts/box:{command}", code=UnknownHost.code, status=404)

    assert aima("host", command, "box").code == UnknownHost.exit_code
