"""Aliases: set by operators, signed, and resolved by gateways with the shares that their weights give."""

from __future__ import annotations

import json
from collections import Counter
from urllib.parse import quote

import pytest
from api.access.guarded import Guarded
from api.node import SERVICE
from hypothesis import given
from hypothesis import strategies as st
from lab.commands import SIGNING_KEY
from pydantic import SecretStr

from aima_api.access.aliases import Alias, AliasStore, NameResolver, StoredAliases, WeightedChoice
from aima_core.domain.ids import ServiceId
from aima_core.errors import UnknownAlias
from aima_core.redis import keys
from aima_core.store.operations import now
from aima_core.trust.keys import KeyRing, SigningKey

A, B, C = (ServiceId(f"svc-vllm-{name}") for name in "abc")
SIGNER = SigningKey(SIGNING_KEY)
OTHER = ServiceId("svc-tiny-other")
SPEECH = "svc-tts-espeak-en"


def an_alias(name: str = "gpt-4o", *, fallback: tuple[ServiceId, ...] = (), **weights: int) -> Alias:
    targets = {ServiceId(f"svc-vllm-{model}"): weight for model, weight in weights.items()}
    return Alias(name=name, targets=targets, fallback=fallback, changed_at=now(), changed_by="the test")


def resolver_of(*aliases: Alias) -> NameResolver:
    resolver = NameResolver()
    resolver.replace(aliases)
    return resolver


def resolved(resolver: NameResolver, name: str) -> tuple[tuple[str, ...], ...]:
    return resolver.resolve(name, services={A, B, C}, models={"a": (A,), "both": (B, C)})


# Resolution -------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from([A, B, C, OTHER]), st.integers(0, 50), min_size=1).filter(lambda w: any(w.values()))
)
def test_each_target_gets_exactly_its_share_of_as_many_requests_as_the_weights_add_up_to(weights):
    choice = WeightedChoice(weights)

    chosen = Counter(choice.order()[0] for _ in range(2 * sum(weights.values())))

    assert chosen == {target: 2 * weight for target, weight in weights.items() if weight}


@given(st.integers(1, 400))
def test_a_canary_gets_its_share_in_every_stretch_of_requests(requests):
    resolver = resolver_of(an_alias(a=90, b=10))

    chosen = Counter(resolved(resolver, "gpt-4o")[0][0] for _ in range(requests))

    assert abs(chosen[B] - requests * 0.1) <= 1


def test_a_target_of_weight_0_gets_nothing_even_if_the_others_cannot_answer():
    resolver = resolver_of(an_alias(a=1, b=0, fallback=(C,)))

    pools = {resolved(resolver, "gpt-4o") for _ in range(10)}

    assert pools == {((A,), (C,))}


def test_the_other_targets_follow_by_weight_and_then_the_fallbacks_in_order():
    resolver = resolver_of(an_alias(a=60, b=10, c=30, fallback=(OTHER,)))

    pools = resolved(resolver, "gpt-4o")

    assert pools == ((A,), (C,), (B,), (OTHER,))


def test_an_alias_goes_before_a_service_and_a_service_before_a_model():
    resolver = resolver_of(an_alias("both", a=1), an_alias(B, c=1))

    pools = [resolved(resolver, name) for name in ("both", B, A, "a", "A")]

    assert pools == [((A,),), ((C,),), ((A,),), ((A,),), ((A,),)]


def test_a_model_is_answered_by_all_its_services_and_an_unknown_name_by_none():
    resolver = resolver_of()

    assert resolved(resolver, "both") == ((B, C),)
    assert resolved(resolver, "gpt-4o") == ()


def test_an_alias_that_has_not_changed_keeps_its_turn_when_it_is_read_again():
    alias = an_alias(a=1, b=1)
    resolver = resolver_of(alias)

    chosen = []
    for _ in range(4):
        chosen.append(resolved(resolver, "gpt-4o")[0][0])
        resolver.replace([alias.model_copy()])

    assert chosen == [A, B, A, B]


# Setting ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def services(guarded: Guarded) -> tuple[str, str]:
    """Two services that exist."""
    for service in (SERVICE, SPEECH):
        assert guarded.ask("POST", "/v1/services", json={"id": service}).status_code == 201
    return SERVICE, SPEECH


@pytest.mark.redis
@pytest.mark.parametrize("name", ["gpt-4o", "Qwen/Qwen3-32B", "smollm2:135m", "text-embedding-3-small"])
def test_an_alias_is_set_shown_listed_and_removed(guarded, services, name):
    path = f"/v1/aliases/{quote(name, safe='')}"
    targets = {services[0]: 90, services[1]: 10}

    stored = guarded.ask("PUT", path, json={"targets": targets})
    shown, [listed] = guarded.ask("GET", path).json(), guarded.ask("GET", "/v1/aliases").json()["items"]
    removed, again = guarded.ask("DELETE", path), guarded.ask("DELETE", path)

    assert stored.status_code == 200, stored.text
    assert stored.json() == shown == listed
    assert (shown["name"], shown["targets"], shown["changed_by"]) == (name, targets, "api.keys[0]")
    assert (removed.status_code, again.status_code, again.json()["code"]) == (204, 404, "unknown_alias")


@pytest.mark.redis
def test_an_alias_to_an_unknown_service_is_refused_with_the_nearest_names_before_anything_is_written(guarded, services):
    guarded.ask("PUT", "/v1/aliases/gpt-4o", json={"targets": {services[0]: 1}})

    refused = guarded.ask(
        "PUT", "/v1/aliases/gpt-4o", json={"targets": {services[0]: 1}, "fallback": ["svc-tiny-dail"]}
    )

    assert (refused.status_code, refused.json()["code"]) == (422, "alias_target_unknown")
    assert "svc-tiny-dail" in refused.json()["detail"]
    assert SERVICE in refused.json()["hint"]
    assert guarded.ask("GET", "/v1/aliases/gpt-4o").json()["fallback"] == []


@pytest.mark.redis
@pytest.mark.parametrize("name", [SERVICE, "svc-vllm-other", "SmolLM2-135M", "smollm2-135m", "dial", "own"])
def test_the_id_of_a_service_or_model_cannot_be_an_alias(guarded, services, name):
    guarded.ask("POST", "/v1/services", json={"id": "svc-ollama-own", "engine": "ollama-cpu", "model_path": "store"})

    refused = guarded.ask("PUT", f"/v1/aliases/{name}", json={"targets": {services[0]: 1}})

    assert (refused.status_code, refused.json()["code"]) == (409, "alias_conflict")
    assert guarded.ask("GET", "/v1/aliases").json()["items"] == []


@pytest.mark.redis
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"targets": {}},
        {"targets": {SERVICE: 0}},
        {"targets": {SERVICE: -1}},
        {"targets": {SERVICE: 1.5}},
        {"targets": {"gpt-4": 1}},
        {"targets": {SERVICE: 1}, "fallback": [SERVICE]},
        {"targets": {SERVICE: 1}, "weight": 1},
    ],
)
def test_a_malformed_alias_is_refused(guarded, services, body):
    assert guarded.ask("PUT", "/v1/aliases/gpt-4o", json=body).status_code in (400, 422)


@pytest.mark.redis
def test_aliases_are_read_with_the_scope_read_and_set_with_operate(guarded, services):
    reader, operator, client = (guarded.create(scope, scope) for scope in ("read", "operate", "infer"))
    body = {"json": {"targets": {services[0]: 1}}}

    answers = [guarded.ask("PUT", "/v1/aliases/a/b", key, **body).status_code for key in (reader, operator, client)]
    read = [guarded.ask("GET", "/v1/aliases/a/b", key).status_code for key in (reader, operator, client)]

    assert answers == [403, 200, 403]
    assert read == [200, 200, 403]


# A writer in Redis ------------------------------------------------------------------------------------------------


@pytest.fixture
def store(redis) -> AliasStore:
    return AliasStore(redis, KeyRing([SIGNER.public]))


def set_alias(store: AliasStore, name: str, *, signer: SigningKey = SIGNER) -> Alias:
    alias = an_alias(name, a=1)
    store.put(alias, signer)
    return alias


@pytest.mark.redis
@pytest.mark.parametrize("forgery", ["another target", "another name", "another signer", "no JSON", "too large"])
def test_a_forged_alias_counts_as_none_and_is_counted(store, redis, forgery):
    set_alias(store, "gpt-4o")
    record = json.loads(redis.hget(keys.ALIASES, "gpt-4o"))
    match forgery:
        case "another target":
            record["text"] = record["text"].replace(A, B)
        case "another name":
            set_alias(store, "mine")
            record = json.loads(redis.hget(keys.ALIASES, "mine"))
        case "another signer":
            set_alias(store, "gpt-4o", signer=SigningKey(SecretStr("the seed of somebody else, 0123456789")))
            record = json.loads(redis.hget(keys.ALIASES, "gpt-4o"))
        case "too large":
            record["more"] = "x" * 20_000
    redis.hdel(keys.ALIASES, "mine")
    redis.hset(keys.ALIASES, "gpt-4o", "{" if forgery == "no JSON" else json.dumps(record))

    found = store.all()

    assert (found.items, found.unverified) == ([], 1)
    with pytest.raises(UnknownAlias):
        store.get("gpt-4o")


@pytest.mark.redis
def test_aliases_of_another_type_count_as_none(store, redis):
    redis.set(keys.ALIASES, "text")

    found = store.all()
    redis.delete(keys.ALIASES)

    assert found == StoredAliases([], 0)


@pytest.mark.redis
def test_aliases_are_read_with_the_data_set_that_they_belong_to(store, redis):
    redis.set(keys.EPOCH, "an epoch")

    assert store.read() == ("an epoch", StoredAliases([], 0))
