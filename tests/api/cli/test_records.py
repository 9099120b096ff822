"""Listings and records: a table for people, JSON and YAML for programs, no escapes for the terminal."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from api.cli.outcome import Aima
from api.cli.stand_in import ID, SERVICE, StandIn, a_failure, a_pull, an_operation
from syrupy.assertion import SnapshotAssertion

from aima_api.cli.options import _scalar
from aima_api.cli.tables import age
from aima_core.domain.wire import WIRE_VERSION
from aima_core.logs.sanitize import sanitized

LONG_AGO = "2020-01-01T00:00:00+00:00"
INSTANCE = {
    "id": f"{SERVICE}@box",
    "desired": "running",
    "fence": 1,
    "state": "failed",
    "endpoint": None,
    "failure": a_failure(),
    "since": LONG_AGO,
}
STATUS = {
    "id": SERVICE,
    "engine": "llamacpp-smollm2-cpu",
    "model": None,
    "hosts": [],
    "replicas": 1,
    "arguments": {"threads": 2},
    "created_at": LONG_AGO,
    "instances": [INSTANCE, {**INSTANCE, "state": "ready", "failure": None, "endpoint": "http://box:20000"}],
}
REFUSED = {"id": "svc-tiny-forged", "failure": a_failure("unverified_service"), "instances": [INSTANCE]}
HOST = {
    "name": "box",
    "identity": "f00",
    "arch": "arm64",
    "address": "10.0.0.1",
    "accelerators": [
        {"kind": "gb10", "name": "NVIDIA GB10", "id": "GPU-2dee", "memory": None, "compute_capability": "12.1"}
    ],
    "unified_memory": True,
    "cores": 20,
    "memory": 128_000_000_000,
    "memory_reserve": 12_800_000_000,
    "slots": 4,
    "disk_free": 1_000_000_000_000,
    "runtime": "docker",
    "runtime_version": "29.0",
    "runtime_answers": True,
    "container_runtimes": ["nvidia", "runc"],
    "gives_gpus": True,
    "images": [
        {"reference": "zhiwen-vllm:0128", "digest": f"sha256:{'1' * 64}"},
        {"reference": "qujing-glm-asr-nano:latest", "digest": None},
    ],
    "allows": ["*"],
    "clock_offset": 0.2,
    "ports": [20000, 20999],
    "routes": ["host.box", "gb10.arm64", "cpu.arm64"],
    "labels": {},
    "version": "0.1.0",
    "live": True,
    "seen_at": LONG_AGO,
    "drained_since": None,
    "drained": False,
}
CARD = {"kind": "cuda", "name": "NVIDIA L4", "id": "GPU-1", "memory": 24_000_000_000, "compute_capability": "8.9"}
SERVER = {
    **HOST,
    "name": "server",
    "arch": "amd64",
    "accelerators": [CARD, {**CARD, "id": "GPU-2"}],
    "unified_memory": False,
    "memory_reserve": 6_400_000_000,
    "runtime_answers": False,
    "images": [],
    "clock_offset": -2.5,
    "labels": {"rack": "b"},
    "drained_since": LONG_AGO,
    "drained": True,
}
ENGINE = {
    "name": "vllm-1",
    "type": "vllm",
    "image": "vllm:1",
    "image_size": "25000000000B",
    "command": ["vllm", "serve", "/models"],
    "arguments": {"max-model-len": 8192, "kv_cache": "fp8"},
    "environment": {"VLLM_ATTENTION_BACKEND": "FLASHINFER"},
    "requires": {"platforms": ["linux/arm64"], "accelerator": "gb10", "memory": "32000000000B", "gpu_memory": None},
    "limits": {"memory": None, "shared_memory": "1000000000B"},
}
MODEL = {
    "name": "GLM-4.7-Flash",
    "type": "llm",
    "size": "60000000000B",
    "engines": ["vllm-1", "llama-1"],
    "services": {
        "svc-vllm-glm-4.7-flash": {"engine": "vllm-1", "hosts": ["box"]},
        "svc-llama-glm-4.7-flash": {"engine": "llama-1", "hosts": ["box", "server", "third", "fourth", "fifth"]},
    },
    "files": ["box", "away"],
}
LEASE = {"host": "box", "port": 20000, "holder": f"{SERVICE}@box", "fence": 1, "since": LONG_AGO, "until": None}
OPERATION = an_operation(
    state="failed", phase="failed", host="box", created_at=LONG_AGO, failure=a_failure(), progress=a_pull(1, 1, 2)
)
RECORDS = {
    ("service", "list"): ("/v1/services", [STATUS]),
    ("service", "status"): ("/v1/services", [STATUS]),
    ("service", "status", SERVICE): (f"/v1/services/{SERVICE}", STATUS),
    ("operation", "list"): ("/v1/operations", [OPERATION]),
    ("operation", "show", ID): (f"/v1/operations/{ID}", OPERATION),
    ("host", "list"): ("/v1/hosts", [HOST, SERVER]),
    ("host", "show", "box"): ("/v1/hosts/box", HOST),
    ("host", "show", "server"): ("/v1/hosts/server", SERVER),
    ("engine", "list"): ("/v1/engines", [ENGINE]),
    ("engine", "show", "vllm-1"): ("/v1/engines/vllm-1", ENGINE),
    ("model", "list"): ("/v1/models", [MODEL]),
    ("model", "show", "GLM-4.7-Flash"): ("/v1/models/GLM-4.7-Flash", MODEL),
    ("port", "list"): ("/v1/ports", [LEASE]),
}


def serve(script: StandIn, words: tuple[str, ...]) -> object:
    path, records = RECORDS[words]
    script.answer(f"GET {path}", {"items": records, "next": None} if isinstance(records, list) else records)
    return records


@pytest.fixture
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime.fromisoformat(LONG_AGO) + timedelta(hours=5)
    for module in ("commands.services", "commands.operations", "commands.hosts"):
        monkeypatch.setattr(f"aima_api.cli.{module}.age", lambda at: age(at, now=moment))


@pytest.mark.usefixtures("standing_clock")
def test_a_drained_host_is_listed_with_the_time_since_then(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/hosts", {"items": [HOST | {"drained": True, "drained_since": LONG_AGO}], "next": None})

    assert "live, drained for 5h" in aima("host", "list").out


@pytest.mark.usefixtures("standing_clock")
def test_a_host_below_its_memory_reserve_is_shown_with_what_is_left(script: StandIn, aima: Aima) -> None:
    low = HOST | {"memory_low": 1_500_000_000}
    script.answer("GET /v1/hosts", {"items": [low], "next": None})
    script.answer("GET /v1/hosts/spark-01", low)

    assert "live, low memory" in aima("host", "list").out
    assert "1.5 GB available: no starts below the reserve" in aima("host", "show", "spark-01").out


def test_hosts_are_filtered_by_all_given_labels(script: StandIn, aima: Aima) -> None:
    labels = {"one": {"rack": "1"}, "two": {"rack": "1", "fast": "true"}, "three": {"fast": "true"}}
    script.answer("GET /v1/hosts", {"items": [HOST | {"name": name, "labels": each} for name, each in labels.items()]})

    assert aima("host", "list", "-l", "rack=1", "-l", "fast=true", "-o", "name").out == "two\n"
    assert aima("host", "list", "-l", "fast=true", "-o", "name").out == "two\nthree\n"


def test_services_are_filtered_by_all_given_labels(script: StandIn, aima: Aima) -> None:
    labels = {"svc-tiny-a": {"team": "speech"}, "svc-tiny-b": {"team": "speech", "tier": "1"}}
    services = [STATUS | {"id": id, "labels": each} for id, each in labels.items()]
    script.answer("GET /v1/services", {"items": [*services, STATUS, REFUSED], "next": None})

    assert aima("service", "list", "-l", "team=speech", "-o", "name").out == "svc-tiny-a\nsvc-tiny-b\n"
    assert aima("service", "list", "-l", "team=speech", "-l", "tier=1", "-o", "name").out == "svc-tiny-b\n"


def test_a_service_whose_spec_is_refused_is_listed_as_such(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/services", {"items": [STATUS, REFUSED], "next": None})
    script.answer("GET /v1/services/svc-tiny-forged", REFUSED)

    listed = aima("service", "list").out.splitlines()
    shown = aima("service", "status", "svc-tiny-forged").out

    assert [" ".join(line.split()) for line in listed[2:]] == ["svc-tiny-forged - forged unverified spec, 1 failed -"]
    assert "unverified_service" in shown


@pytest.mark.usefixtures("standing_clock")
@pytest.mark.parametrize("words", RECORDS, ids=" ".join)
def test_records_are_printed_as_a_table(
    words: tuple[str, ...], script: StandIn, aima: Aima, snapshot: SnapshotAssertion
) -> None:
    serve(script, words)

    outcome = aima(*words)

    assert outcome.code == 0, outcome.err
    assert outcome.out == snapshot


@pytest.mark.parametrize("words", RECORDS, ids=" ".join)
def test_json_and_yaml_are_the_response_of_the_api(words: tuple[str, ...], script: StandIn, aima: Aima) -> None:
    records = serve(script, words)
    if words == ("service", "status"):
        records = STATUS["instances"]

    assert json.loads(aima(*words, "-o", "json").out) == records
    assert yaml.safe_load(aima(*words, "-o", "yaml").out) == records


USAGE = {
    "items": [
        {
            "host": "spark-01",
            "live": True,
            "cores": 20,
            "memory": 128_000_000_000,
            "gpus": 1,
            "gpus_allocated": 1,
            "usage": {
                "host": "spark-01",
                "at": LONG_AGO,
                "cpu": 12.4,
                "memory": 71_000_000_000,
                "instances": {
                    "svc-tts-qwen3-tts-0.6b@spark-01": {"cpu": None, "memory": 900_000_000, "restarts": 0},
                    "svc-vllm-glm-4.7-flash@spark-01": {"cpu": 180.2, "memory": 64_000_000_000, "restarts": 2},
                },
            },
        },
        {"host": "box", "live": False, "cores": 2, "memory": 4_000_000_000, "gpus": 0, "gpus_allocated": 0}
        | {"usage": None},
    ]
}


def test_the_usage_of_hosts_and_instances_is_one_table_without_a_terminal(
    script: StandIn, aima: Aima, snapshot: SnapshotAssertion
) -> None:
    script.answer("GET /v1/hosts:usage", USAGE)

    outcome = aima("top")

    assert (outcome.code, outcome.out) == (0, snapshot)
    assert json.loads(aima("top", "-o", "json").out) == USAGE["items"]


def test_the_usage_is_refreshed_on_a_terminal_until_interrupted(
    script: StandIn, aima: Aima, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = iter([None])

    def pause(_: float) -> None:
        if next(pauses, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr("aima_api.cli.commands.top.colours", lambda: True)
    monkeypatch.setattr("aima_api.cli.commands.top.time.sleep", pause)
    script.answer("GET /v1/hosts:usage", USAGE)

    outcome = aima("top")

    assert (outcome.code, outcome.out.count("spark-01 ")) == (130, 2)


PROFILE = {
    "name": "nvidia-gb10",
    "arch": "arm64",
    "accelerator": "gb10",
    "cores": 20,
    "memory": "128000000000B",
    "unified_memory": True,
    "recommends": [{"engine": "vllm-1", "model": "GLM-4.7-Flash"}],
    "services": [
        {
            "service": "svc-vllm-glm-4.7-flash",
            "engine": "vllm-1",
            "model": "GLM-4.7-Flash",
            "needs": {"memory": 32_000_000_000, "gpus": 1, "gpu_memory": 60_000_000_000, "cores": 8},
        }
    ],
    "hosts": [
        {"host": "spark-01", "would_do": True, "why_not": []},
        {
            "host": "box",
            "would_do": False,
            "why_not": [{"obstacle": "arch", "sentence": "needs arm64 (host: amd64)", "passes": False}],
        },
    ],
}


def test_a_profile_is_shown_with_its_services_its_hosts_and_what_apply_would_do(
    script: StandIn, aima: Aima, snapshot: SnapshotAssertion
) -> None:
    plan = {"service": "svc-vllm-glm-4.7-flash", "verdict": "starts", "failure": None}
    script.answer("GET /v1/profiles", {"items": [PROFILE], "next": None})
    script.answer("GET /v1/profiles/nvidia-gb10", PROFILE)
    script.answer("POST /v1/profiles/nvidia-gb10:plan", {"items": [plan]})

    assert aima("profile", "list").out + aima("profile", "show", "nvidia-gb10").out == snapshot
    assert json.loads(aima("profile", "show", "nvidia-gb10", "-o", "json").out) == PROFILE | {"plans": [plan]}


def test_a_profile_that_no_host_matches_is_shown_without_a_plan(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/profiles/nvidia-gb10", PROFILE)
    script.refuse("POST /v1/profiles/nvidia-gb10:plan", code="no_host_matches", status=422)

    shown = aima("profile", "show", "nvidia-gb10")

    assert shown.code == 0
    assert "needs arm64 (host: amd64)" in shown.out


def test_columns_without_a_value_are_omitted(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/hosts", {"items": [HOST], "next": None})

    headings = aima("host", "list").out.splitlines()[0]

    assert "ACCELERATORS" in headings
    assert "LABELS" not in headings
    assert "CLOCK" not in headings


def test_a_host_that_left_has_its_last_heartbeat_time_and_not_1970(script: StandIn, aima: Aima) -> None:
    left = {**HOST, "live": False, "left": True, "seen_at": "1970-01-01T00:00:00Z"}
    script.answer("GET /v1/hosts", {"items": [left], "next": None})

    heading, row = aima("host", "list").out.splitlines()

    assert heading.split("  ")[-1] == "LAST SEEN"
    assert row.split()[-1] == "left"


def test_unrecognized_containers_are_listed_with_their_host(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/hosts/box", {**HOST, "strangers": ["aima-x", "aima-y"]})

    shown = aima("host", "show", "box").out

    assert re.search(r"^unrecognized containers +aima-x, aima-y$", shown, re.MULTILINE)


def test_a_host_with_another_version_of_the_wire_is_marked(script: StandIn, aima: Aima) -> None:
    newer = {**HOST, "version": "9.0", "wire": WIRE_VERSION + 1}
    script.answer("GET /v1/hosts", {"items": [HOST, newer], "next": None})

    _, same, other = aima("host", "list").out.splitlines()

    assert "wire" not in same
    assert f"9.0 (wire {WIRE_VERSION + 1}, here {WIRE_VERSION})" in other


def test_a_listing_reads_page_after_page(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/ports", {"items": [LEASE], "next": "more"})
    script.answer("GET /v1/ports", {"items": [{**LEASE, "port": 20001}], "next": None})

    outcome = aima("port", "list", "-o", "json")

    assert [lease["port"] for lease in json.loads(outcome.out)] == [20000, 20001]
    assert "cursor=more" in script.asked("GET /v1/ports")[1].path


def test_an_empty_listing_is_reported_on_stderr(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/services", {"items": [], "next": None})

    outcome = aima("service", "list")

    assert outcome.out == ""
    assert "No services." in outcome.err


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_no_record_can_send_escapes_to_the_terminal(output: str, script: StandIn, aima: Aima) -> None:
    evil = "\x1b[2J\x9b31m\u202e"
    script.answer("GET /v1/hosts/box", {**HOST, "address": evil, "labels": {evil: evil}})

    said = aima("host", "show", "box", "-o", output).out

    assert not set(evil) - set("[2J31m") & set(said)
    assert sanitized(evil) != evil


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("8192", 8192),
        ("0.9", 0.9),
        ("true", True),
        ("1.10", "1.10"),
        ("007", "007"),
        ("nan", "nan"),
        ("1_000", "1_000"),
    ],
)
def test_an_argument_reaches_the_engine_as_it_was_typed(written: str, sent: object) -> None:
    assert _scalar(written) == sent
    assert type(_scalar(written)) is type(sent)


@pytest.mark.parametrize(
    ("seconds", "reported"), [(5, "5s"), (119, "119s"), (150, "2m"), (7300, "2h"), (200_000, "2d"), (-3, "0s")]
)
def test_an_age_has_one_unit(seconds: int, reported: str) -> None:
    then = datetime(2026, 1, 1, tzinfo=UTC)

    assert age(then.isoformat(), now=then + timedelta(seconds=seconds)) == reported


@pytest.mark.parametrize(
    ("state", "serving", "printed"),
    [
        ("ready", True, "ready"),
        ("ready", False, "ready, not serving"),
        ("ready", None, "ready"),  # its worker does not report it
        ("starting", True, "starting, serving as before"),
        ("starting", False, "starting"),
        ("failed", False, "failed"),
    ],
)
def test_an_instance_is_shown_with_whether_it_serves_where_its_state_does_not_tell(
    script, aima, state, serving, printed
):
    instance = {**INSTANCE, "state": state, **({} if serving is None else {"serving": serving})}
    script.answer(f"GET /v1/services/{SERVICE}", {**STATUS, "instances": [instance]})

    shown = aima("service", "show", SERVICE)

    assert re.split(r"  +", shown.out.splitlines()[-1])[1] == printed


@pytest.mark.parametrize("expose", [False, True])
def test_a_service_is_shown_with_the_url_of_the_gateways_or_its_exposed_ports(
    script: StandIn, aima: Aima, expose: bool
) -> None:
    instance = {**INSTANCE, "state": "ready", "endpoint": "http://box:20000", "serves": ["chat"]}
    service = {**STATUS, "expose": expose, "instances": [instance], "inference_url": "http://gateway:7090/v1"}
    script.answer(f"GET /v1/services/{SERVICE}", service)
    script.answer("GET /v1/services", {"items": [service], "next": None})

    shown = aima("service", "show", SERVICE).out + aima("service", "list", "-o", "wide").out

    assert (shown.count("http://gateway:7090/v1"), shown.count("http://box:20000")) == ((0, 2) if expose else (1, 0))


def test_a_wide_listing_has_the_reason_and_a_listing_of_names_has_nothing_else(script: StandIn, aima: Aima) -> None:
    unhealthy = {
        "id": "svc-a-b@box",
        "state": "unhealthy",
        "endpoint": "http://box:1",
        "failure": {"message": "It fails."},
    }
    service = {"id": "svc-a-b", "created_at": "2026-01-01T00:00:00+00:00", "instances": [unhealthy]}
    script.answer("GET /v1/services", {"items": [service], "next": None})

    wide, names = aima("service", "list", "-o", "wide"), aima("service", "list", "-o", "name")

    assert wide.out.splitlines()[0].split()[-3:] == ["HOSTS", "ENDPOINTS", "REASON"]
    assert wide.out.rstrip().endswith("box    http://box:1  It fails.")
    assert names.out == "svc-a-b\n"


def test_revisions_are_listed_with_what_was_changed_and_by_whom_and_shown_one_by_one(
    script: StandIn, aima: Aima
) -> None:
    newer = {"revision": 2, "changed_at": LONG_AGO, "changed_by": "ann", "changed": ["port"], "current": True}
    older = {"revision": 1, "changed_at": None, "changed_by": "ben", "changed": [], "current": False}
    script.answer(f"GET /v1/services/{SERVICE}/revisions", {"items": [newer, older]})
    script.answer(f"GET /v1/services/{SERVICE}/revisions/1", {"id": SERVICE, "port": 20001})
    script.answer(f"POST /v1/services/{SERVICE}:rollback", {"operations": [an_operation()]}, status=202)

    heading, *rows = aima("service", "history", SERVICE).out.splitlines()
    shown = aima("service", "show", SERVICE, "--revision", "1")
    aima("service", "rollback", SERVICE, "--to", "1")

    assert heading.split() == ["REVISION", "AGE", "BY", "CHANGED", "CURRENT"]
    assert [("ann" in row, "port" in row, "current" in row) for row in rows] == [(True,) * 3, (False,) * 3]
    assert "20001" in shown.out
    assert [each.body for each in script.asked(f"POST /v1/services/{SERVICE}:rollback")] == [{"to": 1}]
