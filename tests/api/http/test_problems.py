"""Problem documents: a refused request is answered with the field and the fix."""

from __future__ import annotations

import pytest
from api.node import SERVICE

from aima_core.store.hosts import HostStore

pytestmark = pytest.mark.redis

START = f"/v1/services/{SERVICE}:start"
NOBODY = "0b5f4c1e-3c1c-4a52-9c55-3f8a3a0f9f21"


@pytest.mark.parametrize(
    ("path", "status", "code", "says"),
    [
        ("/v1/services/svc-tiny-dial", 404, "unknown_service", "svc-tiny-dial"),
        ("/v1/services/nonsense", 400, "bad_id", "'nonsense'"),
        (f"/v1/operations/{NOBODY}", 404, "unknown_operation", NOBODY),
        (f"/v1/operations/{NOBODY}/events", 404, "unknown_operation", NOBODY),
        ("/v1/operations/1/events", 400, "bad_id", "operation id"),
        ("/v1/engines/vlm", 404, "unknown_engine", "vlm"),
        ("/v1/models/Quen", 404, "unknown_model", "Quen"),
        ("/v1/hosts/nowhere", 404, "unknown_host", "nowhere"),
        ("/v1/hosts/No_Where", 400, "bad_id", "host name"),
        ("/v1/operations?state=asleep", 422, "invalid_request", "`state`"),
        ("/v1/operations?limit=0", 422, "invalid_request", "`limit`"),
        ("/v2", 404, "not_found", "/v2"),
    ],
)
def test_an_unknown_resource_is_named(node, path, status, code, says):
    answer = node.get(path)

    assert_problem(answer, status, code)
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        (START, {"engine": "vlm"}, 404, "unknown_engine", "vlm"),
        (START, {"engine": "qwen-tts-cpu"}, 422, "engine_does_not_serve", "of type tts"),
        (START, {"engine": "No such"}, 400, "bad_id", "engine name"),
        (START, {"model": "Quen"}, 404, "unknown_model", "Quen"),
        ("/v1/services/svc-tiny-nosuch:start", {}, 404, "unknown_model", "nosuch"),
        ("/v1/services/svc-nosuch-dial:start", {}, 422, "engine_does_not_serve", "nosuch"),
        ("/v1/services/svc--dial:start", {}, 400, "bad_id", "svc--dial"),
        (START, {"hosts": ["nowhere"]}, 404, "unknown_host", "nowhere"),
        (START, {"hosts": ["../x"]}, 400, "bad_id", "'../x'"),
        (START, {"model_path": "/models/$(reboot)"}, 422, "invalid_request", "`model_path`"),
        (START, {"model_path": "x" * 501}, 422, "invalid_request", "`model_path`"),
        (START, {"port": 0}, 422, "invalid_request", "`port`"),
        (START, {"port": "http"}, 422, "invalid_request", "'http'"),
        (START, {"replicas": 0}, 422, "invalid_request", "`replicas`"),
        (START, {"replicas": 2}, 422, "invalid_request", "2 replicas"),
        (START, {"replicas": 3, "hosts": ["a"]}, 422, "invalid_request", "`hosts` or `replicas`"),
        (START, {"arguments": {"no-such": 1}}, 422, "unknown_argument", "no-such"),
        (START, {"arguments": {"flood": "many"}}, 422, "invalid_request", "flood"),
        (START, {"arguments": {"last-words": "--host"}}, 422, "invalid_request", "last-words"),
        (START, {"arguments": {"flood": [1]}}, 422, "invalid_request", "flood"),
        (START, {"modell": "Dial"}, 422, "invalid_request", "`modell`: unknown field"),
        ("/v1/services", {}, 422, "invalid_request", "`id`"),
        ("/v1/services", {"id": "dial"}, 400, "bad_id", "'dial'"),
        (f"/v1/services/{SERVICE}:stop", {}, 404, "unknown_service", SERVICE),
        (f"/v1/services/{SERVICE}:stop", {"grace": 10}, 422, "invalid_request", "`grace`"),
        (f"/v1/services/{SERVICE}:stop", {"grace": "2d"}, 422, "invalid_request", "`grace`"),
        (f"/v1/services/{SERVICE}:restart", {}, 404, "unknown_service", SERVICE),
        (f"/v1/operations/{NOBODY}:cancel", {}, 404, "unknown_operation", NOBODY),
        ("/v1/images:pull", {"image": "Not An Image"}, 422, "invalid_request", "`image`"),
        ("/v1/images:pull", {}, 422, "invalid_request", "either `image` or `engine`"),
        ("/v1/images:pull", {"image": "a:1"}, 422, "invalid_request", "0 live hosts"),
        ("/v1/images:pull", {"image": "a:1", "route": "gpu"}, 400, "bad_id", "route"),
        ("/v1/images:pull", {"image": "a:1", "route": "host.nowhere"}, 404, "unknown_host", "nowhere"),
        ("/v1/images:pull", {"engine": "vlm", "route": "cpu.amd64"}, 404, "unknown_engine", "vlm"),
    ],
)
def test_an_invalid_request_leaves_nothing_behind(node, path, body, status, code, says):
    answer = node.post(path, body)

    assert_problem(answer, status, code)
    assert says in answer.json()["detail"]
    assert node.get("/v1/operations").json()["items"] == []
    assert node.get("/v1/services").json()["items"] == []


@pytest.mark.parametrize("body", ['{"port": 1', "[1]", '"start"', '{"port": NaN}', "[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(node, body):
    answer = node.client.post(START, content=body, headers={"Content-Type": "application/json"})

    assert_problem(answer, 422, "invalid_request")


def test_a_method_that_is_not_allowed_is_answered_with_the_allowed_ones(node):
    answer = node.client.put(f"/v1/operations/{NOBODY}")

    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert "GET" in answer.json()["hint"]


def test_an_internal_error_is_answered_without_its_traceback(node, monkeypatch):
    def bug(_: HostStore) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(HostStore, "all", bug)

    answer = node.get("/v1/hosts")

    assert_problem(answer, 500, "internal_error")
    assert "Traceback" not in answer.text


def test_the_openapi_schema_documents_problem_responses(node):
    described = node.get("/openapi.json").json()

    assert "Problem" in described["components"]["schemas"]
    assert described["paths"]["/v1/services/{id}:start"]["post"]["responses"]["default"]


def assert_problem(answer, status: int, code: str) -> None:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document.keys() >= {"type", "title", "status", "detail", "code", "hint", "instance"}
    assert document["status"] == status
    assert all(document.values())
