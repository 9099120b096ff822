"""Every path: HEAD, OPTIONS and `Allow`, unknown query parameters, paths of other APIs, and the API's description."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker, api_node
from lab.parts import eventually

from aima_core.domain.ids import HostName, InstanceId
from aima_core.store.ports import PortStore

pytestmark = pytest.mark.redis

PATHS = {
    "/v1/services": "GET, HEAD, OPTIONS, POST",
    f"/v1/services/{SERVICE}": "DELETE, GET, HEAD, OPTIONS, PATCH",
    f"/v1/services/{SERVICE}:start": "OPTIONS, POST",
    f"/v1/services/{SERVICE}/logs": "GET, HEAD, OPTIONS",
    "/v1/hosts/alpha": "DELETE, GET, HEAD, OPTIONS",
    "/v1/hosts/alpha:drain": "OPTIONS, POST",
    "/v1/images:pull": "OPTIONS, POST",
    "/healthz": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The first node's description of the API: making it takes a second of a core, and it is the same of every node."""
    return {}


@pytest.fixture
def node(redis_url: str, described: dict[str, Any]) -> Iterator[Node]:
    with api_node(redis_url) as node:
        app = node.server.config.app
        app.openapi = described.setdefault("openapi", app.openapi)
        app.state.docs = described.setdefault("docs", app.state.docs)
        yield node


@pytest.mark.parametrize(("path", "allow"), PATHS.items())
def test_options_and_a_wrong_method_name_the_allowed_methods(node, path, allow):
    options = node.client.options(path)
    wrong = node.client.request("PUT", path)

    assert (options.status_code, options.headers["allow"], options.content) == (204, allow, b"")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, allow)
    assert wrong.json()["code"] == "method_not_allowed"


def test_an_action_is_not_read_as_the_id_of_a_service(node):
    answer = node.get(f"/v1/services/{SERVICE}:start")

    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize(
    "path", ["/v1/hosts", "/v1/services", "/healthz", "/docs", "/openapi.json", "/v2", "/v1/hosts/x"]
)
def test_head_answers_like_get_without_the_body(node, path):
    got, head = node.get(path), node.client.head(path)

    assert head.status_code == got.status_code
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
    assert (head.content, bool(got.content)) == (b"", True)


def test_head_of_an_event_stream_ends_and_frees_its_slot(node):
    answer = node.client.head("/v1/events", timeout=5)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert eventually(lambda: len(node.server.open_streams) == 0)


def test_a_connection_serves_further_requests_after_a_head(node):
    with socket.create_connection(("127.0.0.1", int(node.url.rpartition(":")[2])), timeout=5) as line:
        line.sendall(b"HEAD /v1/hosts HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: line.recv(65536), b""))

    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.endswith(b'{"status":"alive"}')


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/operations?stat=queued", ["Did you mean `state`?", "`cursor`"]),
        ("/v1/services?limitt=1", ["Did you mean `limit`?"]),
        ("/v1/hosts?live", ["It takes `limit`, `cursor`."]),
        ("/v1/hosts/alpha?limit=1", ["It takes none"]),
        (f"/v1/services/{SERVICE}/logs?Follow=true", ["Did you mean `follow`?"]),
        ("/docs?x=1", ["It takes none"]),
    ],
)
def test_an_unknown_query_parameter_is_refused_with_the_known_ones(node, path, says):
    answer = node.get(path)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert repr(path.partition("?")[2].partition("=")[0]) in answer.json()["detail"]
    for text in says:
        assert text in answer.json()["hint"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/audio/speech", "/v1/messages"])
def test_a_path_of_an_inference_api_is_answered_with_where_to_send_it(node, path):
    answer = node.post(path, {"model": "qwen3"})

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "aima service list" in answer.json()["hint"]


def test_openai_s_client_does_not_read_the_catalog_as_an_empty_list(node):
    client, browser = node.get("/v1/models", headers={"X-Stainless-Lang": "python"}), node.get("/v1/models")

    assert (client.status_code, browser.status_code) == (404, 200)
    assert "endpoint of a ready instance" in client.json()["hint"]


@pytest.mark.parametrize("listing", ["engines", "models", "hosts", "ports", "services", "operations"])
def test_every_listing_is_paged(node, redis, listing):
    for name in ("alpha", "beta"):
        ports = PortStore(redis, HostName(name))
        ScriptedWorker(redis, name)
        ports.set_range(range(20000, 20010))
        for number in range(2):
            ports.lease(InstanceId(f"svc-tiny-m{number}@{name}"), fence=number + 1)
    for model in ("dial", "dial-2", "dial-3"):
        node.start(f"svc-tiny-{model}", model="Dial", hosts=["alpha"])
    whole = node.get(f"/v1/{listing}").json()

    page, paged = node.get(f"/v1/{listing}?limit=1").json(), []
    paged += page["items"]
    while page["next"]:
        page = node.get(f"/v1/{listing}", params={"limit": 1, "cursor": page["next"]}).json()
        paged += page["items"]

    assert len(whole["items"]) > 1
    assert whole["next"] is None
    assert [lasting(each) for each in paged] == [lasting(each) for each in whole["items"]]


def test_openapi_describes_every_operation_parameter_id_and_problem(node):
    document = node.get("/openapi.json").json()
    operations = [(path, each) for path, item in document["paths"].items() for each in item.values()]

    assert [path for path, each in operations if len(each.get("summary", "")) < 10] == []
    parameters = [(path, each) for path, operation in operations for each in operation.get("parameters", ())]
    assert [(path, each["name"]) for path, each in parameters if not each["description"]] == []
    ids = [each["schema"] for _, each in parameters if each["in"] == "path" and each["name"] == "id"]
    assert all(re.match(schema["pattern"], schema["examples"][0]) for schema in ids)
    problems = [each["responses"]["default"]["content"] for _, each in operations]
    assert {tuple(each) for each in problems} == {("application/problem+json",)}
    assert not any("422" in each["responses"] for _, each in operations)


def test_the_docs_page_loads_nothing_and_names_every_path(node):
    page = node.get("/docs")

    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r"<script|<link|<img|https?:|url\(|@import| on\w+=", page.text)
    for path in node.get("/openapi.json").json()["paths"]:
        assert path in page.text


def lasting(record):
    """Without the age of a host's heartbeat, which differs from request to request."""
    return {name: value for name, value in record.items() if name not in ("seen_at", "silent_for")}
