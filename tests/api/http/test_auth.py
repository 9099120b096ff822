"""The authentication middleware: keys, Host and Origin headers, content types and sizes."""

from __future__ import annotations

import subprocess
import sys

import httpx2
import pytest
from api.node import SERVICE, api_node
from lab.commands import SIGNING_KEY

from aima_api.app import create_app
from aima_api.http.auth import MAX_BODY
from aima_core.errors import BadSettings, UnsafeBind
from aima_core.settings import Settings

START = f"/v1/services/{SERVICE}:start"


@pytest.fixture
def guarded(redis_url):
    with api_node(redis_url, keys=["first-key-of-api", "second-key-of-api"]) as node:
        yield node


@pytest.mark.redis
@pytest.mark.parametrize(
    "given", [None, "Bearer third-key-of-api", "Basic first-key-of-api", "first-key-of-api", "Bearer"]
)
def test_without_a_valid_key_every_request_is_refused(guarded, given):
    answer = guarded.get("/v1/hosts", headers={"Authorization": given} if given else {})

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.redis
@pytest.mark.parametrize("key", ["first-key-of-api", "second-key-of-api"])
def test_any_of_the_keys_is_accepted(guarded, key):
    assert guarded.get("/v1/hosts", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.redis
def test_health_checks_need_no_key(guarded):
    assert guarded.get("/healthz").status_code == guarded.get("/readyz").status_code == 200


@pytest.mark.redis
@pytest.mark.parametrize("host", ["evil.example", "evil.example:7080", "localhost.evil.example", "10.0.0.1", ""])
def test_on_loopback_other_host_names_are_refused(node, host):
    answer = node.get("/v1/hosts", headers={"Host": host})

    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_request")


@pytest.mark.redis
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:7080", "[::1]:7080"])
def test_on_loopback_its_own_names_are_accepted(node, host):
    assert node.get("/v1/hosts", headers={"Host": host}).status_code == 200


@pytest.mark.redis
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_cannot_start_anything(node, origin):
    answer = node.post(START, headers={"Origin": origin})

    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_request")


@pytest.mark.redis
def test_a_page_of_the_same_origin_can_start_something(node):
    assert node.post(START, headers={"Origin": node.url}).status_code == 202


@pytest.mark.redis
@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_content_type_that_a_cross_site_form_can_send_is_refused(node, given):
    answer = node.client.post(START, content="{}", headers={"Content-Type": given})

    assert (answer.status_code, answer.json()["code"]) == (415, "wrong_content_type")


@pytest.mark.redis
def test_a_start_needs_no_body(node):
    assert node.client.post(START).status_code == 202


@pytest.mark.redis
def test_a_body_over_the_limit_is_refused_even_without_a_content_length(node):
    pieces = (b" " * 65536 for _ in range(MAX_BODY // 65536 + 2))

    try:
        answer = node.client.post(START, content=pieces, headers={"Content-Type": "application/json"})
    except httpx2.TransportError:
        pytest.skip("the line was cut before the answer was read")

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_public_address_needs_a_key():
    with pytest.raises(UnsafeBind):
        create_app(settings(api={"bind": "0.0.0.0"}))

    assert create_app(settings(api={"bind": "0.0.0.0", "keys": ["a-key-of-16-chars"], "plain": True}))


def test_without_a_signing_key_the_node_does_not_start():
    with pytest.raises(BadSettings, match="signing key"):
        create_app(settings(signing_key=None))


def test_a_node_that_cannot_start_reports_the_reason_and_the_remedy():
    environment = {
        "AIMA_API__BIND": "0.0.0.0",
        "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
        "AIMA_CONFIG": "/dev/null",
    }

    ended = subprocess.run(
        [sys.executable, "-m", "aima_api"], env=environment, capture_output=True, text=True, timeout=100, check=False
    )

    assert ended.returncode == UnsafeBind.exit_code
    assert [line.split(":")[0] for line in ended.stderr.splitlines()] == ["error", "hint", "code"]


def settings(**given: object) -> Settings:
    return Settings.model_validate({"signing_key": SIGNING_KEY, **given})
