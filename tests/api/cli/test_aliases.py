"""`aima alias` on a scripted API."""

from __future__ import annotations

import pytest

ALIAS = {
    "name": "gpt-4o",
    "targets": {"svc-vllm-a": 90, "svc-vllm-b": 10},
    "fallback": ["svc-vllm-c"],
    "changed_at": "2026-01-01T12:00:00Z",
    "changed_by": "ci",
}


def test_an_alias_is_set_by_weights_and_fallbacks_and_its_shares_are_printed(aima, script):
    script.answer("PUT /v1/aliases/gpt-4o", ALIAS)

    outcome = aima("alias", "set", "gpt-4o", "svc-vllm-a=90", "svc-vllm-b=10", "--fallback", "svc-vllm-c")

    assert (outcome.code, outcome.out) == (0, "Alias gpt-4o leads to svc-vllm-a (0.9), svc-vllm-b (0.1).\n")
    [asked] = script.asked("PUT /v1/aliases/gpt-4o")
    assert asked.body == {"targets": ALIAS["targets"], "fallback": ["svc-vllm-c"]}


def test_services_without_weights_get_the_same_share(aima, script):
    script.answer("PUT /v1/aliases/Qwen%2FQwen3-32B", ALIAS)

    aima("alias", "set", "Qwen/Qwen3-32B", "svc-vllm-a", "svc-vllm-b")

    [asked] = script.asked("PUT /v1/aliases/Qwen%2FQwen3-32B")
    assert asked.body == {"targets": {"svc-vllm-a": 1, "svc-vllm-b": 1}, "fallback": []}


@pytest.mark.parametrize(
    "target", ["svc-vllm-a=", "svc-vllm-a=-1", "svc-vllm-a=ten", "svc-vllm-a=1=2", "svc-vllm-a=0.5"]
)
def test_a_malformed_weight_is_refused_before_any_request(aima, script, target):
    outcome = aima("alias", "set", "gpt-4o", target)

    assert outcome.code == 2
    assert "svc-vllm-a=90" in outcome.err


def test_aliases_are_listed_and_skipped_records_reported(aima, script):
    script.answer("GET /v1/aliases", {"items": [ALIAS], "next": None, "unverified": 1})

    outcome = aima("alias", "list")

    assert outcome.code == 0
    for cell in ("gpt-4o", "svc-vllm-a=90, svc-vllm-b=10", "svc-vllm-c", "ci"):
        assert cell in outcome.out
    assert "1 stored records were skipped" in outcome.err


def test_an_alias_is_shown_and_removed_by_its_name(aima, script):
    script.answer("GET /v1/aliases/gpt-4o", ALIAS)
    script.answer("DELETE /v1/aliases/gpt-4o", None, status=204)

    shown, removed = aima("alias", "show", "gpt-4o"), aima("alias", "remove", "gpt-4o")

    assert "svc-vllm-b: 10" in shown.out
    assert removed.out == "Alias gpt-4o removed.\n"
