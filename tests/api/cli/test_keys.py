"""`aima key` and `aima audit` on a scripted API, and the two commands on the signing key without one."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from lab.commands import SIGNING_KEY
from pydantic import SecretStr

from aima_core.errors import BadSettings
from aima_core.trust.keys import PublicKey, SigningKey

KEY = {
    "id": "0a1b2c",
    "name": "ci",
    "scopes": ["operate", "infer"],
    "models": ["Qwen3-32B"],
    "requests_per_minute": 600,
    "concurrent_requests": 8,
    "created_at": "2026-01-01T12:00:00Z",
    "created_by": "(local)",
    "expires_at": None,
    "last_used_at": None,
}
ENTRY = {
    "at": "2026-01-01T12:00:00Z",
    "key": "ci",
    "key_id": "0a1b2c",
    "address": "192.0.2.7",
    "method": "POST",
    "path": "/v1/images:pull",
    "target": "tiny:1",
    "status": 403,
    "code": "insufficient_scope",
    "count": 7,
}


def test_a_created_key_alone_is_printed_on_stdout(aima, script):
    script.answer("POST /v1/keys", {**KEY, "key": "aima_secret"}, status=201)

    outcome = aima("key", "create", "ci", "--scope", "operate", "--scope", "infer", "--model", "Qwen3-32B")

    assert (outcome.code, outcome.out) == (0, "aima_secret\n")
    assert "not shown again" in outcome.err
    [asked] = script.asked("POST /v1/keys")
    assert asked.body == {"name": "ci", "scopes": ["operate", "infer"], "models": ["Qwen3-32B"]}


def test_quotas_are_sent_as_they_are_given(aima, script):
    script.answer("POST /v1/keys", {**KEY, "key": "aima_secret"}, status=201)

    aima("key", "create", "app", "--scope", "infer", "--requests-per-minute", "600", "--concurrent", "8")

    body = {"name": "app", "scopes": ["infer"], "models": [], "requests_per_minute": 600, "concurrent_requests": 8}
    assert script.asked("POST /v1/keys")[0].body == body


def test_an_expiry_is_sent_as_a_duration_and_printed_as_a_moment(aima, script):
    script.answer("POST /v1/keys", {**KEY, "expires_at": "2026-04-01T12:00:00Z", "key": "aima_secret"}, status=201)

    outcome = aima("key", "create", "ci", "--scope", "read", "--expires", "90d")

    assert "2026-04-01T12:00:00Z" in outcome.err
    assert script.asked("POST /v1/keys")[0].body["expires"] == "90d"


def test_keys_are_listed_and_skipped_records_reported(aima, script):
    script.answer("GET /v1/keys", {"items": [KEY], "next": None, "unverified": 2})

    outcome = aima("key", "list")

    assert outcome.code == 0
    for cell in ("ci", "0a1b2c", "operate, infer", "Qwen3-32B", "600/min, 8 at once", "(local)", "never"):
        assert cell in outcome.out
    assert "2 stored records were skipped" in outcome.err


def test_a_key_is_revoked_by_its_name(aima, script):
    script.answer("DELETE /v1/keys/ci", None, status=204)

    assert aima("key", "revoke", "ci").out == "Key ci revoked.\n"


def test_the_audit_log_is_printed_with_outcome_and_number(aima, script):
    script.answer(
        "GET /v1/audit", {"items": [{**ENTRY, "at": datetime.now(UTC).isoformat()}], "next": None, "last": "1-0.0-0"}
    )

    outcome = aima("audit", "--key", "ci")

    assert outcome.code == 0
    for cell in ("ci", "192.0.2.7", "POST /v1/images:pull", "tiny:1", "403 insufficient_scope", "7"):
        assert cell in outcome.out
    assert "key=ci" in script.received[0].path


def test_the_audit_log_is_read_to_its_end_since_a_moment(aima, script):
    script.answer("GET /v1/audit", {"items": [ENTRY], "next": "1-0.0-0", "last": "1-0.0-0"})
    script.answer("GET /v1/audit", {"items": [ENTRY], "next": None, "last": "2-0.0-0"})

    outcome = aima("audit", "--since", "10m", "-o", "json")

    assert len(json.loads(outcome.out)) == 2
    assert ["since=10m" in asked.path for asked in script.received] == [True, True]
    assert "cursor=1-0.0-0" in script.received[1].path


def test_the_audit_log_is_followed_from_its_last_entry(aima, script):
    script.answer("GET /v1/audit", {"items": [], "next": None, "last": "1-0.0-0"})
    script.answer("GET /v1/audit", {"items": [ENTRY], "next": None, "last": "2-0.0-0"})
    script.answer("GET /v1/audit", b"the API ends")

    outcome = aima("audit", "--follow")

    assert "192.0.2.7  POST /v1/images:pull  tiny:1  403 insufficient_scope  × 7" in outcome.out
    assert ["cursor=1-0.0-0" in asked.path for asked in script.received] == [False, True, False]


def test_the_public_key_is_printed_without_an_api(aima, monkeypatch):
    monkeypatch.setenv("AIMA_SIGNING_KEY", SIGNING_KEY.get_secret_value())

    outcome = aima("key", "public")

    assert outcome.out == f"{SigningKey(SIGNING_KEY).public}\n"


def test_a_machine_without_a_signing_key_says_so(aima):
    assert aima("key", "public").code == BadSettings.exit_code


@pytest.mark.parametrize("configured", [True, False])
def test_a_rotation_prints_a_new_key_and_the_steps_in_order(aima, monkeypatch, configured):
    if configured:
        monkeypatch.setenv("AIMA_SIGNING_KEY", SIGNING_KEY.get_secret_value())

    outcome = aima("key", "rotate-signing")

    seed, public = [line.strip() for line in outcome.out.splitlines() if line.startswith("  ")][:2]
    assert SigningKey(SecretStr(seed)).public == PublicKey(public)
    assert (str(SigningKey(SIGNING_KEY).public) in outcome.out) == configured
    steps = [outcome.out.index(step) for step in ("`trusted_keys`, and", "set `signing_key`", "to `retired_keys` on")]
    assert steps == sorted(steps)
    assert aima("key", "rotate-signing", "-o", "json").out != aima("key", "rotate-signing", "-o", "json").out
