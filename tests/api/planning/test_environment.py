"""Variables and secrets of services: what is stored, where a start goes, and what is refused before it is stored."""

from __future__ import annotations

import json

import pytest
from api.node import SERVICE, ScriptedWorker, waiting_on

pytestmark = pytest.mark.redis
HOLDS = {
    "secrets": ("huggingface",),
    "secrets_at": "/var/lib/aima/secrets",
    "images": ({"reference": "aima/dial:1", "digest": None},),
}
GIVEN = {"environment": {"HF_HUB_OFFLINE": "1"}, "secrets": {"HF_TOKEN": "huggingface"}}


def test_variables_and_references_are_stored_with_the_service_and_reach_the_host(node, redis, redis_url):
    ScriptedWorker(redis, "alpha", **HOLDS)

    [operation] = node.start(**GIVEN)

    stored = node.get(f"/v1/services/{SERVICE}").json()
    assert {name: stored[name] for name in GIVEN} == GIVEN
    assert waiting_on(redis_url, "host.alpha") == [operation["id"]]
    assert json.loads(redis.hget(f"aima:operation:{operation['id']}", "command"))["secrets"] == GIVEN["secrets"]


def test_a_start_goes_to_the_host_that_holds_its_secrets(node, redis):
    for name in ("a", "b", "d"):
        ScriptedWorker(redis, name, secrets=("other",), secrets_at="/srv/secrets")
    ScriptedWorker(redis, "c", **HOLDS)

    [operation] = node.start(**GIVEN)

    assert operation["route"] == "host.c"


def test_a_start_that_no_host_holds_the_secrets_for_is_refused_with_the_path_and_nothing_is_stored(node, redis):
    ScriptedWorker(redis, "alpha", secrets_at="/var/lib/aima/secrets")
    ScriptedWorker(redis, "old")

    for options in (GIVEN, GIVEN | {"hosts": ["alpha"]}):
        answer = node.post(f"/v1/services/{SERVICE}:start", options)
        assert answer.status_code == 422
        assert "alpha" in answer.text
        assert "has no secret huggingface (create /var/lib/aima/secrets/huggingface there, mode 600)" in answer.text

    assert node.get("/v1/services").json()["items"] == []


def test_a_plan_shows_which_hosts_lack_a_secret(node, redis):
    ScriptedWorker(redis, "alpha", **HOLDS)
    ScriptedWorker(redis, "beta", secrets_at="/srv/secrets")
    ScriptedWorker(redis, "old")

    found = node.post(f"/v1/services/{SERVICE}:plan", GIVEN).json()

    reasons = {each["host"]: [why["sentence"] for why in each["why_not"]] for each in found["hosts"]}
    assert found["verdict"] == "starts"
    assert reasons == {
        "alpha": [],
        "beta": ["has no secret huggingface (create /srv/secrets/huggingface there, mode 600)"],
        "old": ["has no secret huggingface (its worker is too old)"],
    }


@pytest.mark.parametrize(
    "options",
    [
        {"environment": {"LD_PRELOAD": "/models/evil.so"}},
        {"environment": {"A B": "1"}},
        {"secrets": {"HF_TOKEN": "../signing.key"}},
        {"secrets": {"../HF_TOKEN": "huggingface"}},
    ],
)
def test_what_loads_code_or_leaves_a_directory_is_refused(node, redis, options):
    ScriptedWorker(redis, "alpha", **HOLDS)

    assert node.post(f"/v1/services/{SERVICE}:start", options).status_code == 422
