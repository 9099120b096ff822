"""Attacks on the front door: holders of a key of each scope, senders of wrong keys, and a writer in Redis."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import product

import pytest
from api.access.guarded import ROOT, guarded_node
from api.node import SERVICE, ScriptedWorker
from lab.commands import SIGNING_KEY
from lab.parts import eventually
from pydantic import SecretStr
from structlog.testing import capture_logs

from aima_api.access import audit
from aima_api.access.audit import AuditLog
from aima_api.access.keys import KeyOptions, KeyStore, digest_of
from aima_api.access.scopes import SCOPES, Caller, Scope
from aima_api.http.callers import WRONG_KEYS_PER_MINUTE
from aima_core.errors import BadSettings
from aima_core.redis import keys
from aima_core.settings import load_settings
from aima_core.trust.keys import KeyRing, SigningKey

pytestmark = pytest.mark.redis

HOSTS = "/v1/hosts"
START = f"/v1/services/{SERVICE}:start"
WRONG = "a wrong key of the tests"
BODIES = {"/v1/services": {"id": SERVICE}, "/v1/images:pull": {"engine": "tiny-dial"}}


# Holders of a key -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", Scope)
def test_a_key_of_each_scope_opens_the_routes_of_that_scope_and_no_other(guarded, redis, scope):
    ScriptedWorker(redis)
    holder, key = Caller("holder", "1", frozenset({scope})), guarded.create("holder", scope)
    streams = {row for row in SCOPES if row[1].endswith("events")}

    opened = {row: guarded.ask(row[0], path_of(row), key, json=BODIES.get(row[1])) for row in set(SCOPES) - streams}

    refused = {row for row, answer in opened.items() if answer.status_code in (401, 403)}
    assert refused == {row for row, required in SCOPES.items() if row not in streams and not holder.may(required)}
    for row in refused:
        assert opened[row].json()["code"] == "insufficient_scope"
        assert "holder" in opened[row].json()["detail"]
        assert SCOPES[row] in opened[row].json()["detail"]


@pytest.mark.parametrize("scope", [Scope.READ, Scope.OPERATE, Scope.INFER])
def test_a_key_cannot_reach_a_route_by_another_spelling_of_its_path(guarded, scope):
    key = guarded.create("holder", scope)
    spellings = [
        "/v1/keys/",
        "//v1/keys",
        "/v1//keys",
        "/v1/./keys",
        "/v1/%6Beys",
        "/V1/KEYS",
        "/v1/keys;x",
        "/v1/keys%00",
    ]
    methods = ["GET", "POST", "HEAD", "PUT", "PATCH", "get", "OPTIONS"]

    answers = [guarded.ask(method, path, key, follow_redirects=True) for method, path in product(methods, spellings)]

    assert {answer.status_code for answer in answers} <= {307, 400, 403, 404, 405, 204}
    assert all("holder" not in json.loads(answer.text or "{}").get("items", "") for answer in answers)


def test_a_route_without_a_scope_is_open_to_admins_only(guarded, monkeypatch):
    monkeypatch.setattr("aima_api.http.auth.required_scope", lambda *_: None)
    keys_by_scope = [guarded.create(scope, scope) for scope in ("read", "operate", "infer", "admin")]

    answers = [guarded.ask("GET", "/v1/engines", key) for key in keys_by_scope]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 200]


def test_an_operator_cannot_pull_an_image_that_the_catalog_does_not_name(guarded, redis):
    ScriptedWorker(redis)
    key = guarded.create("operator", "operate")

    foreign = guarded.ask("POST", "/v1/images:pull", key, json={"image": "evil.example/miner:1"})
    by_an_admin = guarded.ask("POST", "/v1/images:pull", json={"image": "evil.example/miner:1"})
    named = guarded.ask("POST", "/v1/images:pull", key, json={"image": "ollama/ollama:latest"})

    assert (foreign.status_code, foreign.json()["code"]) == (403, "insufficient_scope")
    assert by_an_admin.status_code == 202
    assert named.status_code == 202


def test_a_key_cannot_read_or_occupy_the_idempotency_keys_of_another(guarded, redis):
    ScriptedWorker(redis)
    victim, thief = guarded.create("victim", "operate"), guarded.create("thief", "operate")
    same = {"headers": {"Idempotency-Key": "order-1"}, "json": {"port": 20001}}

    theirs = guarded.ask("POST", START, victim, **same).json()["operations"][0]["id"]
    stolen = guarded.ask("POST", START, thief, headers=same["headers"], json={"port": 20002})
    other_request = guarded.ask("POST", f"/v1/services/{SERVICE}:stop", thief, headers={"Idempotency-Key": "order-1"})
    again = guarded.ask("POST", START, victim, **same).json()["operations"][0]["id"]

    assert stolen.status_code == 202
    assert stolen.json()["operations"][0]["id"] != theirs
    assert other_request.status_code == 422
    assert again == theirs


def test_a_key_cannot_create_a_key_named_like_another_caller(guarded):
    names = ["(local)", "api.keys[0]", "", " ", "a b", "a\nb", "\x1b[2J", "x" * 64]

    answers = [guarded.ask("POST", "/v1/keys", json={"name": name, "scopes": ["read"]}) for name in names]

    assert {answer.status_code for answer in answers} == {422}


# Senders of wrong keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", " ", "  ", "\t", "x" * 15, " " * 40, "a key with a line\nbreak"])
def test_a_key_in_the_settings_cannot_be_blank_or_short(monkeypatch, tmp_path, given):
    settings = tmp_path / "aima.toml"
    settings.write_text(f"[api]\nkeys = [{json.dumps(given)}]\n")
    monkeypatch.setenv("AIMA_CONFIG", str(settings))

    with pytest.raises(BadSettings, match=r"api\.keys") as refused:
        load_settings()

    assert not given.strip() or given not in str(refused.value)


@pytest.mark.parametrize(
    "given", ["", " ", "  ", "Bearer", "Bearer ", "Bearer  ", "Bearer \t", "Basic Og==", "Bearer null"]
)
def test_a_blank_key_opens_nothing(guarded, given):
    connection = HTTPConnection(guarded.node.url.removeprefix("http://"))  # unlike httpx, it sends any value
    connection.request("GET", HOSTS, headers={"Authorization": given})
    status = connection.getresponse().status
    connection.close()

    assert status == 401


def test_an_address_that_guesses_keys_is_slowed_and_a_right_key_from_it_is_not(guarded):
    key = guarded.create("ci", "read")

    began = time.monotonic()
    with ThreadPoolExecutor(8) as guessing:
        guesses = list(guessing.map(lambda n: guarded.ask("GET", HOSTS, f"{WRONG} {n}"), range(100)))
        right = [guarded.ask("GET", HOSTS, each).status_code for each in (key, ROOT)]

    statuses = [guess.status_code for guess in guesses]
    most = WRONG_KEYS_PER_MINUTE + 1 + int((time.monotonic() - began) * WRONG_KEYS_PER_MINUTE / 60)
    assert statuses.count(401) <= most
    assert statuses.count(429) >= 100 - most
    slowed = next(guess for guess in guesses if guess.status_code == 429)
    assert (slowed.json()["code"], 1 <= int(slowed.headers["retry-after"]) <= 60) == ("too_many_wrong_keys", True)
    assert right == [200, 200]


def test_wrong_keys_are_counted_and_recorded_with_their_origin(guarded):
    with capture_logs() as lines:
        for _ in range(3):
            guarded.ask("GET", HOSTS, WRONG)

    counted = guarded.ask("GET", "/metrics").text
    assert 'aima_requests_refused_total{code="unauthorized"} 3.0' in counted
    assert [(line["address"], line["code"]) for line in lines if line["event"] == "request audited"] == [
        ("127.0.0.1", "unauthorized")
    ]


def test_a_flood_of_refused_requests_evicts_no_entry_of_another_caller(guarded, redis, monkeypatch):
    monkeypatch.setattr(keys, "AUDIT_CAP", 200)
    monkeypatch.setattr(audit, "MOST_WINDOWS", 20)
    operator, reader = guarded.create("operator", "operate"), guarded.create("reader", "read")
    guarded.ask("POST", f"/v1/services/{SERVICE}:stop", operator)
    guarded.ask("POST", START, reader)

    with ThreadPoolExecutor(8) as flooding:
        list(flooding.map(lambda n: guarded.ask("POST", f"/v1/services/svc-tiny-{n}:stop", WRONG), range(1000)))

    assert eventually(lambda: guarded.audit(limit=1000, key="reader"))
    entries = guarded.audit(limit=1000)
    assert {"operator", "reader"} <= {entry["key"] for entry in entries}
    assert len([entry for entry in entries if entry["key"] is None]) <= 4


def test_no_key_or_digest_reaches_a_log_a_metric_a_problem_or_the_audit_log(guarded, redis):
    with capture_logs() as lines:
        right = guarded.create("reader", "read")
        answers = [guarded.ask("POST", START, each) for each in (right, WRONG, ROOT)]
        answers += [guarded.ask("GET", path) for path in ("/metrics", "/v1/keys", "/v1/hosts")]
        assert eventually(lambda: len(guarded.audit()) >= 4)
        answers.append(guarded.ask("GET", "/v1/audit"))

    said = json.dumps(lines, default=str) + "".join(answer.text for answer in answers)
    for key in (right, WRONG, ROOT):
        assert key not in said
        assert digest_of(key) not in said


# A writer in Redis ------------------------------------------------------------------------------------------------


@pytest.fixture
def forger(redis):
    """A key store whose owner has a signing key of their own."""
    own = SigningKey(SecretStr("the forger's own seed, 0123456789abcdef"))
    store = KeyStore(redis, KeyRing([own.public]))
    return lambda name: store.create(
        KeyOptions(name=name, scopes=(Scope.ADMIN,)), expires=None, by="(local)", signing_key=own
    )[0]


def test_a_forged_record_opens_nothing_and_is_reported(guarded, forger):
    key = forger("backdoor")

    assert guarded.ask("GET", HOSTS, key).status_code == 401
    listed = guarded.ask("GET", "/v1/keys").json()
    assert (listed["items"], listed["unverified"]) == ([], 1)


def test_the_record_of_an_admin_under_the_digest_of_another_key_opens_nothing(guarded, redis):
    admin, reader = guarded.create("admin", "admin"), guarded.create("reader", "read")
    redis.hset(keys.API_KEYS, digest_of(reader), str(redis.hget(keys.API_KEYS, digest_of(admin))))

    answer = guarded.ask("GET", "/v1/keys", reader)

    assert answer.status_code == 401


def test_a_record_with_wider_scopes_than_were_signed_opens_nothing(guarded, redis):
    reader = guarded.create("reader", "read")
    record = json.loads(str(redis.hget(keys.API_KEYS, digest_of(reader))))
    record["text"] = record["text"].replace('"read"', '"admin"')
    redis.hset(keys.API_KEYS, digest_of(reader), json.dumps(record))

    assert guarded.ask("GET", "/v1/keys", reader).status_code == 401


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ('"requests_per_minute":60', '"requests_per_minute":6000'),
        ('"concurrent_requests":2', '"concurrent_requests":null'),
        ('"models":["Dial"]', '"models":[]'),
    ],
)
def test_a_record_with_wider_quotas_or_models_than_were_signed_opens_nothing(guarded, redis, store, narrow, wide):
    client = guarded.create("client", "infer", models=["Dial"], requests_per_minute=60, concurrent_requests=2)
    record = json.loads(str(redis.hget(keys.API_KEYS, digest_of(client))))
    redis.hset(keys.API_KEYS, digest_of(client), json.dumps({**record, "text": record["text"].replace(narrow, wide)}))

    found, _ = store.find(digest_of(client))

    assert narrow in record["text"]
    assert found is None
    assert guarded.ask("GET", HOSTS, client).status_code == 401


def test_a_record_without_its_expiry_or_of_another_purpose_opens_nothing(guarded, redis):
    expiring = guarded.create("reader", "read", expires="1s")
    record = json.loads(str(redis.hget(keys.API_KEYS, digest_of(expiring))))
    text = json.loads(record["text"]) | {"expires_at": None}
    unsigned = [{**record, "text": json.dumps(text)}, {**record, "signature": ""}]
    of_an_order = SigningKey(SIGNING_KEY).sign(record["text"], "order")  # type: ignore[arg-type]  # as a replay has it

    answers = []
    for forged in [*unsigned, {**record, "signature": of_an_order}]:
        redis.hset(keys.API_KEYS, digest_of(expiring), json.dumps(forged))
        answers.append(guarded.ask("GET", HOSTS, expiring).status_code)

    assert answers == [401, 401, 401]


@pytest.mark.parametrize("junk", ["", "{", "[" * 100_000, "null", '{"text": "{}", "signature": "x"}', "\x00" * 20_000])
def test_an_unreadable_record_opens_nothing_and_disturbs_no_other_key(guarded, redis, junk):
    right, wrong = guarded.create("right", "read"), WRONG
    redis.hset(keys.API_KEYS, digest_of(wrong), junk)
    redis.hset(keys.API_KEYS_USED, "junk", junk)

    assert guarded.ask("GET", HOSTS, wrong).status_code == 401
    assert guarded.ask("GET", HOSTS, right).status_code == 200
    assert [each["name"] for each in guarded.ask("GET", "/v1/keys").json()["items"]] == ["right"]


def test_values_of_another_type_revoke_keys_and_disturb_nothing_after_them(guarded, redis):
    guarded.create("lost", "read")
    for name in (keys.API_KEYS, keys.API_KEYS_USED, keys.AUDIT, keys.AUDIT_REFUSED):
        redis.delete(name)
        redis.set(name, "of another type")

    assert guarded.ask("GET", "/v1/keys").json()["items"] == []
    assert guarded.ask("GET", HOSTS, WRONG).status_code == 401
    key = guarded.create("new", "read")
    assert guarded.ask("GET", HOSTS, key).status_code == 200
    assert eventually(lambda: guarded.ask("GET", "/v1/audit").status_code == 200)
    assert eventually(lambda: "new" in {entry.get("target") for entry in guarded.audit()})
    redis.delete(keys.API_KEYS_USED)


def test_an_audit_log_without_ids_left_is_replaced(guarded, redis):
    redis.xadd(keys.AUDIT, {"entry": "x"}, id="18446744073709551615-18446744073709551615")
    guarded.create("ci", "read")

    assert eventually(lambda: [entry["target"] for entry in guarded.audit()] == ["ci"])


def test_junk_in_the_audit_log_is_skipped(guarded, redis):
    redis.xadd(keys.AUDIT, {"entry": "[" * 10_000})
    redis.xadd(keys.AUDIT, {"other": "x"})
    guarded.create("ci", "read")

    assert eventually(lambda: [entry["target"] for entry in guarded.audit()] == ["ci"])


def test_a_writer_can_only_revoke_a_key_by_deleting_its_record(redis_url, guarded, redis):
    key = guarded.create("reader", "read")
    assert guarded.ask("GET", HOSTS, key).status_code == 200
    redis.hdel(keys.API_KEYS, digest_of(key))

    assert eventually(lambda: guarded.ask("GET", HOSTS, key).status_code == 401)
    with guarded_node(redis_url) as other:
        assert other.ask("GET", HOSTS, key).status_code == 401
    assert AuditLog(redis).page(limit=10).entries


def path_of(row: tuple[str, str]) -> str:
    return row[1].replace("{id}", SERVICE).replace("{name}", "alpha")
