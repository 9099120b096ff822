"""Keys at the gateway: the scope `infer`, models, quotas, revocation, and what open gateways admit."""

from __future__ import annotations

import openai
import pytest
from gateway.test_faults import error_in
from lab.commands import KEYS, SIGNING_KEY
from lab.gateways import gateway
from lab.parts import eventually

from aima_api.access.keys import KeyOptions, KeyStore
from aima_core.trust.keys import SigningKey

CHAT, BODY = "/v1/chat/completions", {"model": "dial", "messages": [{"role": "user", "content": "x"}]}
SETTINGS_KEY = "a-key-of-the-settings"
pytestmark = pytest.mark.redis


@pytest.fixture
def keys(redis):
    return KeyStore(redis, KEYS)


@pytest.fixture
def new_key(keys):
    def create(name: str = "app", **options) -> str:
        made = KeyOptions(**{"name": name, "scopes": ("infer",), **options})
        return keys.create(made, expires=None, by="test", signing_key=SigningKey(SIGNING_KEY))[0]

    return create


@pytest.fixture
def guarded(redis_url, fleet, engine):
    fleet.serves(engine)
    with gateway(redis_url, keys=(SETTINGS_KEY,)) as running:
        yield running


def ask(running, key: str | None, body=BODY, path=CHAT):
    return running.client.post(path, json=body, headers={"authorization": f"Bearer {key}"} if key else {})


def code_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_request_needs_a_key_of_the_scope_infer(guarded, new_key):
    reader = new_key("reader", scopes=("read",))

    assert code_of(ask(guarded, None)) == code_of(ask(guarded, "sk-unused")) == (401, "unauthorized")
    assert code_of(ask(guarded, reader)) == code_of(ask(guarded, SETTINGS_KEY)) == (403, "insufficient_scope")
    assert ask(guarded, new_key()).status_code == 200


def test_anthropics_clients_send_it_in_a_header_of_their_own(guarded, new_key):
    answer = guarded.client.post(CHAT, json=BODY, headers={"x-api-key": new_key()})

    assert answer.status_code == 200


def test_metrics_need_the_scope_read(guarded, new_key):
    for key, status in ((None, 401), (new_key(), 403), (SETTINGS_KEY, 200)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        assert guarded.client.get("/metrics", headers=headers).status_code == status


def test_a_key_uses_and_sees_its_models_only(redis_url, fleet, engine, guarded, new_key):
    fleet.serves(engine, "svc-tiny-other@alpha")
    guarded.knows("other")
    key = new_key(models=("other",))

    assert (
        code_of(ask(guarded, key)) == code_of(ask(guarded, key, BODY | {"model": "none"})) == (403, "model_not_allowed")
    )
    assert ask(guarded, key, BODY | {"model": "other"}).status_code == 200
    listed = guarded.client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).json()
    assert [each["id"] for each in listed["data"]] == ["other", "svc-tiny-other"]


def test_quotas_are_enforced(guarded, engine, new_key):
    by_rate, at_once = new_key("rate", requests_per_minute=2), new_key("once", concurrent_requests=1)

    answers = [ask(guarded, by_rate) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) > 0

    engine.plays(tokens=10_000, delay=0.01)
    headers = {"authorization": f"Bearer {at_once}"}
    with guarded.client.stream("POST", CHAT, json=BODY | {"stream": True}, headers=headers):
        assert code_of(ask(guarded, at_once)) == (429, "key_busy")
    engine.plays()
    assert eventually(lambda: ask(guarded, at_once).status_code == 200)


def test_a_revoked_key_is_refused_and_its_streams_end(guarded, engine, keys, new_key):
    key = new_key()
    engine.plays(tokens=100_000, delay=0.01)
    headers = {"authorization": f"Bearer {key}"}
    with guarded.client.stream("POST", CHAT, json=BODY | {"stream": True}, headers=headers) as answer:
        keys.revoke("app")
        text = b"".join(answer.iter_raw())

    assert error_in(text)["code"] == "unauthorized"
    assert code_of(ask(guarded, key)) == (401, "unauthorized")
    assert eventually(lambda: engine.busy == 0)


def test_an_open_gateway_admits_placeholders_and_refuses_wrong_keys(door, keys, new_key):
    key = new_key()
    assert ask(door, None).status_code == ask(door, "sk-unused").status_code == ask(door, key).status_code == 200

    keys.revoke("app")

    assert eventually(lambda: ask(door, key).status_code == 401)


def test_the_models_of_a_key_hold_for_the_official_client(guarded, new_key):
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=new_key(models=("gone",)), max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(**BODY)
        assert list(client.models.list()) == []
