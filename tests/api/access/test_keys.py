"""API keys: created once, found by their digest, confirmed while in use, and revoked on every node."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest
from api.access.guarded import Clock, guarded_node
from api.node import SERVICE, ScriptedWorker, api_node
from lab.commands import SIGNING_KEY
from lab.parts import eventually
from pydantic import SecretStr

from aima_api.access.keys import CONFIRM_INTERVAL, KEY_PREFIX, KeyCache, KeyOptions, KeyStore, digest_of
from aima_api.access.scopes import Scope
from aima_core.errors import BrokerUnavailable, Unauthorized
from aima_core.redis import keys as redis_keys
from aima_core.redis.connection import command_link
from aima_core.trust.keys import KeyRing, SigningKey

pytestmark = pytest.mark.redis

KEYS_FOR = timedelta(minutes=5)
SIGNER = SigningKey(SIGNING_KEY)
HOSTS = "/v1/hosts"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(redis, clock):
    return KeyStore(redis, KeyRing([SIGNER.public]), now=clock.now)


@pytest.fixture
def cache(store, clock):
    return KeyCache(store, keys_for=KEYS_FOR, clock=clock)


def created(store, name="ci", *, scopes=(Scope.READ,), expires=None, signer=SIGNER) -> str:
    key, _ = store.create(KeyOptions(name=name, scopes=scopes), expires=expires, by="the test", signing_key=signer)
    return digest_of(key)


def test_a_created_key_is_accepted_by_every_node(redis_url, guarded):
    key = guarded.create("ci", "read")

    with guarded_node(redis_url) as other:
        answers = [each.ask("GET", HOSTS, key) for each in (guarded, other)]

    assert key.startswith(KEY_PREFIX)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_redis_holds_the_digest_of_a_key_and_never_the_key(redis, guarded):
    key = guarded.create("ci")
    guarded.ask("GET", HOSTS, key)

    held = [redis.hgetall(each) for each in ("aima:keys", "aima:keys:used")]

    assert digest_of(key) in held[0]
    assert key.removeprefix(KEY_PREFIX) not in str(held)


def test_a_key_is_listed_with_its_last_use_and_without_its_digest(guarded):
    key = guarded.create("ci", "operate", "infer", models=["Qwen3-32B"], expires="90d")
    [unused] = guarded.ask("GET", "/v1/keys").json()["items"]
    guarded.ask("GET", HOSTS, key)

    answer = guarded.ask("GET", "/v1/keys")
    [listed] = answer.json()["items"]

    assert unused["last_used_at"] is None
    assert listed["last_used_at"] is not None
    assert (listed["name"], listed["scopes"], listed["models"]) == ("ci", ["operate", "infer"], ["Qwen3-32B"])
    assert (listed["created_by"], listed["expires_at"] > listed["created_at"]) == ("api.keys[0]", True)
    assert digest_of(key) not in answer.text


def test_a_key_is_created_and_listed_with_its_quotas(guarded):
    guarded.create("app", "infer", requests_per_minute=600, concurrent_requests=8, models=["Qwen/Qwen3-32B"])

    [listed] = guarded.ask("GET", "/v1/keys").json()["items"]

    assert (listed["requests_per_minute"], listed["concurrent_requests"]) == (600, 8)
    assert listed["models"] == ["Qwen/Qwen3-32B"]


def test_keys_are_listed_in_pages(guarded):
    for name in ("b", "a", "c"):
        guarded.create(name)

    first = guarded.ask("GET", "/v1/keys", params={"limit": 2}).json()
    rest = guarded.ask("GET", "/v1/keys", params={"limit": 2, "cursor": first["next"]}).json()

    assert [[each["name"] for each in page["items"]] for page in (first, rest)] == [["a", "b"], ["c"]]
    assert rest["next"] is None


def test_a_name_is_taken_until_its_key_is_revoked(guarded):
    guarded.create("ci")
    again = guarded.ask("POST", "/v1/keys", json={"name": "ci", "scopes": ["admin"]})

    revoked, unknown = (guarded.ask("DELETE", "/v1/keys/ci") for _ in range(2))

    assert (again.status_code, again.json()["code"]) == (409, "key_exists")
    assert (revoked.status_code, unknown.status_code, unknown.json()["code"]) == (204, 404, "unknown_key")
    assert guarded.create("ci")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "(local)", "scopes": ["read"]},
        {"name": "x", "scopes": ["read"], "expires": "0s"},
        {"name": "x", "scopes": ["read"], "models": ["Qwen3-32B"]},
        {"name": "x", "scopes": ["read"], "requests_per_minute": 10},
        {"name": "x", "scopes": ["operate"], "concurrent_requests": 10},
        {"name": "x", "scopes": ["infer"], "requests_per_minute": 0},
        {"name": "x", "scopes": ["infer"], "concurrent_requests": -1},
        {"name": "x", "scopes": ["read"], "digest": "0" * 64},
    ],
)
def test_a_malformed_key_is_refused(guarded, body):
    assert guarded.ask("POST", "/v1/keys", json=body).status_code == 422


# Revocation -------------------------------------------------------------------------------------------------------


def test_a_key_in_use_is_refused_by_every_node_within_a_second_of_its_revocation(redis_url, guarded):
    with guarded_node(redis_url) as other:
        key = guarded.create("ci")
        assert other.ask("GET", HOSTS, key).status_code == guarded.ask("GET", HOSTS, key).status_code == 200

        guarded.ask("DELETE", "/v1/keys/ci")
        revoked_at = time.monotonic()
        refused_by, accepted_after = set[int](), [0.0]
        while len(refused_by) < 2 and time.monotonic() - revoked_at < 30:
            for each in (guarded, other):
                asked_after = time.monotonic() - revoked_at
                if each.ask("GET", HOSTS, key).status_code in (401, 429):
                    refused_by.add(id(each))
                else:
                    accepted_after.append(asked_after)  # the reply may take long on a busy machine

    assert len(refused_by) == 2
    assert max(accepted_after) < 1


def test_an_open_stream_delivers_nothing_more_to_a_revoked_key(guarded, redis):
    key = guarded.create("ci")
    headers = {"Authorization": f"Bearer {key}"}
    with guarded.node.client.sse("/v1/events", headers=headers) as stream:
        events = iter(stream)
        guarded.ask("POST", f"/v1/services/{SERVICE}:start")
        first = next(events)
        guarded.ask("DELETE", "/v1/keys/ci")
        time.sleep(2 * CONFIRM_INTERVAL.total_seconds())

        guarded.ask("POST", f"/v1/services/{SERVICE}:stop")  # a second start would join the first, without an event
        more = next(events, None)

    assert first.event == "phase"
    assert more is None
    assert eventually(lambda: len(guarded.node.server.open_streams) == 0)


def test_a_key_is_looked_up_again_only_after_the_confirm_interval(cache, store, clock):
    digest = created(store)
    cache.check(digest)
    store.revoke("ci")

    assert cache.confirmed(digest) is not None
    clock.advance(CONFIRM_INTERVAL + timedelta(milliseconds=1))
    assert cache.confirmed(digest) is None
    with pytest.raises(Unauthorized):
        cache.check(digest)


def test_an_expired_key_is_refused_though_it_is_cached(cache, store, clock):
    digest = created(store, expires=timedelta(milliseconds=100))
    cache.check(digest)

    clock.advance(timedelta(milliseconds=100))

    with pytest.raises(Unauthorized, match="expired"):
        cache.confirmed(digest)
    with pytest.raises(Unauthorized, match="expired"):
        cache.check(digest)


# Outages ----------------------------------------------------------------------------------------------------------


def test_a_known_key_is_accepted_for_five_minutes_while_redis_is_away_and_an_unknown_one_is_not(own_redis, clock):
    link = command_link(own_redis.url)
    store = KeyStore(link, KeyRing([SIGNER.public]), now=clock.now)
    cache = KeyCache(store, keys_for=KEYS_FOR, clock=clock)
    known, never_used = created(store), created(store, "other")
    cache.check(known)
    own_redis.kill()

    clock.advance(KEYS_FOR - timedelta(seconds=1))
    assert cache.check(known).name == "ci"
    with pytest.raises(BrokerUnavailable):
        cache.check(never_used)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(BrokerUnavailable):
        cache.check(known)

    own_redis.start()
    assert cache.check(known).name == "ci"
    link.close()


def test_a_redis_that_has_lost_its_data_revokes_no_key_for_five_minutes(own_redis, clock):
    link = command_link(own_redis.url)
    store = KeyStore(link, KeyRing([SIGNER.public]), now=clock.now)
    cache = KeyCache(store, keys_for=KEYS_FOR, clock=clock)
    digest = created(store)
    cache.check(digest)
    own_redis.empty()
    created(store, "later")

    clock.advance(KEYS_FOR - timedelta(seconds=1))
    assert cache.check(digest).name == "ci"
    clock.advance(timedelta(seconds=1))
    with pytest.raises(Unauthorized):
        cache.check(digest)
    link.close()


def test_a_node_serves_known_keys_while_redis_is_frozen(own_redis):
    with guarded_node(own_redis.url) as guarded:
        key = guarded.create("ci")
        assert guarded.ask("GET", "/openapi.json", key).status_code == 200
        own_redis.freeze()
        try:
            answers = [guarded.ask("GET", "/openapi.json", key).status_code for _ in range(20)]
        finally:
            own_redis.thaw()

    assert answers == [200] * 20


# Records ----------------------------------------------------------------------------------------------------------


def test_a_record_signed_by_a_retired_key_is_still_valid(redis, store, clock):
    old = SigningKey(SecretStr("an earlier seed of the tests, 0123456789"))
    digest = created(store, signer=old)

    rotated = KeyStore(redis, KeyRing([SIGNER.public], retired=[old.public]), now=clock.now)

    assert store.find(digest)[0] is None
    assert rotated.find(digest)[0].name == "ci"


def test_the_caller_of_an_open_node_is_this_machine_unless_it_sends_a_key(redis_url, guarded):
    key = guarded.create("reader", "read")

    with api_node(redis_url) as node:
        without = node.post(f"/v1/services/{SERVICE}:start")
        with_one = node.post(f"/v1/services/{SERVICE}:start", headers={"Authorization": f"Bearer {key}"})
        with_a_wrong_one = node.get(HOSTS, headers={"Authorization": "Bearer another"})

    assert (without.status_code, with_one.status_code, with_a_wrong_one.status_code) == (202, 403, 401)


@pytest.mark.parametrize("path", [f"/v1/services/{SERVICE}:start", f"/v1/services/{SERVICE}:stop", "/v1/images:pull"])
def test_the_signed_order_names_the_key_on_whose_behalf_it_was_submitted(guarded, redis, path):
    ScriptedWorker(redis)
    key = guarded.create("ci", "operate")
    guarded.ask("POST", f"/v1/services/{SERVICE}:start", json={"hosts": ["alpha"]})

    body = {"engine": "ollama-cpu"} if "images" in path else {"port": 20001} if "start" in path else {}
    answer = guarded.ask("POST", path, key, json=body)

    [operation] = answer.json()["operations"]
    order = redis.hget(redis_keys.operation(operation["id"]), "order")
    assert json.loads(str(order))["caller"] == "ci"
