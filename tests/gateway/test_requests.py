"""What a gateway refuses, and what it passes on."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from datetime import timedelta
from urllib.parse import urlsplit

import openai
import pytest
from lab.gateways import gateway

ASK = [{"role": "user", "content": "x"}]
CHAT = "/v1/chat/completions"
BODY = {"model": "dial", "messages": ASK}
SHORT = timedelta(milliseconds=400)
pytestmark = pytest.mark.redis


def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def code_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_an_unknown_model_is_not_found_with_the_nearest_names(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="dail", messages=ASK)

    assert refused.value.code == "model_not_found"
    assert "Nearest: dial" in refused.value.body["hint"]


def test_a_path_that_the_engine_does_not_list_is_refused_with_those_that_it_does(redis_url, fleet, engine):
    fleet.serves(engine, serves=("chat", "embeddings"))
    with gateway(redis_url) as running:
        answer = running.client.post("/v1/rerank", json={"model": "dial", "query": "x", "documents": []})

    assert code_of(answer) == (404, "path_not_served")
    assert "/v1/chat/completions, /v1/embeddings" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"{", "application/json", (422, "invalid_request")),
        (b"[1]", "application/json", (422, "invalid_request")),
        (b'{"model": 5}', "application/json", (422, "invalid_request")),
        (b'{"model": ""}', "application/json", (422, "invalid_request")),
        (b'{"model": "dial", "stream": "yes"}', "application/json", (422, "invalid_request")),
        (b'{"a":' + b"[" * 100_000, "application/json", (422, "invalid_request")),
        (b'{"model": "dial"}', "text/plain", (415, "wrong_content_type")),
        (b'{"model": "dial"}', "", (415, "wrong_content_type")),
        (b"--x", "multipart/form-data; boundary=x", (415, "wrong_content_type")),
    ],
)
def test_a_malformed_body_is_refused(door, body, kind, expected):
    answer = door.client.post(CHAT, content=body, headers={"content-type": kind} if kind else {})

    assert code_of(answer) == expected


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"--b\r\n",
        b"--b--\r\n",
        b'--b\r\ncontent-disposition: form-data; name="other"\r\n\r\ndial\r\n--b--\r\n',
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ndial',
    ],
)
def test_a_form_without_a_model_is_refused(door, form):
    answer = door.client.post(
        "/v1/audio/transcriptions", content=form, headers={"content-type": "multipart/form-data; boundary=b"}
    )

    assert code_of(answer) == (422, "invalid_request")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(redis_url, fleet, engine, chunked):
    fleet.serves(engine)
    body = json.dumps(BODY | {"more": "x" * 2_000_000}).encode()
    content = iter([body[:1_000_000], body[1_000_000:]]) if chunked else body
    with gateway(redis_url, body="1MB") as running:
        answer = running.client.post(CHAT, content=content, headers={"content-type": "application/json"})

        assert code_of(answer) == (413, "body_too_large")
        assert (running.in_flight, engine.received) == (0, [])


def test_a_body_of_many_megabytes_passes(door, engine):
    picture = "x" * 20_000_000

    assert door.client.post(CHAT, json=BODY | {"picture": picture}).status_code == 200
    assert engine.received[-1].json["picture"] == picture


def test_ids_and_traces_are_passed_and_returned(door, engine):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    answer = door.client.post(CHAT, json=BODY, headers={"x-request-id": "mine-1", "traceparent": trace})
    other = door.client.post(CHAT, json=BODY, headers={"x-request-id": "not one"})

    received = {name.lower(): value for name, value in engine.received[0].headers.items()}
    assert received["x-request-id"] == answer.headers["x-request-id"] == "mine-1"
    assert received["traceparent"] == answer.headers["traceparent"] == trace
    assert len(other.headers["x-request-id"]) == 32


def test_neither_keys_nor_cookies_reach_the_engine(door, engine):
    door.client.post(CHAT, json=BODY, headers={"authorization": "Bearer sk-1", "cookie": "a=b", "x-api-key": "sk-2"})

    received = json.dumps(dict(engine.received[0].headers))
    assert "sk-" not in received
    assert "a=b" not in received


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}])
def test_other_names_and_origins_are_refused(door, headers):
    answer = door.client.post(CHAT, json=BODY, headers=headers)

    assert code_of(answer) == (403, "foreign_request")


@pytest.mark.parametrize(
    ("method", "path", "expected"), [("GET", CHAT, 405), ("POST", "/v1/models", 405), ("GET", "/v1/x", 404)]
)
def test_other_methods_and_paths_are_refused(door, method, path, expected):
    assert door.client.request(method, path).status_code == expected


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_a_body_that_does_not_arrive_in_time_is_answered_with_408(redis_url, monkeypatch, path):
    for name in ("http.connections.RECEIVE_TIMEOUT", "http.connections.SWEEP_INTERVAL", "gateway.app.BODY_TIMEOUT"):
        monkeypatch.setattr(f"aima_api.{name}", SHORT)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
    with gateway(redis_url) as running, connected(running.url) as line:
        line.sendall(head.encode() + b"{}")
        answer = line.makefile("rb").read()
        metrics = running.client.get("/metrics").text

    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"content-type: application/json" in head
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_timeout")
    assert "within 800ms" in error["message"]
    assert "again" in error["hint"]
    assert ("type" in json.loads(body)) == (path == "/v1/messages")
    assert 'aima_connections_refused_total{reason="deadline exceeded"} 1.0' in metrics


def test_connections_and_heads_beyond_the_limits_are_refused_in_the_same_shape(redis_url):
    with gateway(redis_url, connections_per_address=2) as running:
        head = running.client.get("/v1/models", headers={"x-long": "x" * 40_000})
        running.client.close()
        with ExitStack() as lines:
            *_, last = [lines.enter_context(connected(running.url)) for _ in range(3)]
            body = last.makefile("rb").read().partition(b"\r\n\r\n")[2]

    assert code_of(head) == (431, "headers_too_large")
    assert json.loads(body)["error"]["code"] == "too_many_connections"


def test_anthropics_paths_refuse_in_anthropics_shape(door):
    answer = door.client.post("/v1/messages", json={"model": "none", "messages": ASK})

    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "not_found_error"


def test_an_engine_that_was_given_names_is_asked_by_them(redis_url, fleet, engines):
    engine = engines.engine("first")
    fleet.serves(engine, names=("first", "dial"))
    with gateway(redis_url) as running:
        answers = [running.client.post(CHAT, json=BODY | {"model": name}).json() for name in ("dial", "svc-tiny-dial")]

    assert [each["model"] for each in answers] == ["dial", "svc-tiny-dial"]
    assert [each.json["model"] for each in engine.received] == ["dial", "first"]
    engines.kill(engine)
