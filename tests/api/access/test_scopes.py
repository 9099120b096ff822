"""Scopes: the table names every route of the application, and nothing is open but the health checks."""

from __future__ import annotations

import json

import pytest
from api.node import SERVICE, ScriptedWorker
from lab.commands import SIGNING_KEY
from starlette.routing import Route

from aima_api.access.scopes import LOCAL, OPEN_PATHS, SCOPES, Caller, Scope, required_scope
from aima_api.app import ROUTERS, create_app
from aima_core.errors import InsufficientScope
from aima_core.redis import keys
from aima_core.settings import Settings
from aima_worker.node.hardware import arch


@pytest.fixture(scope="module")
def routes() -> set[tuple[str, str]]:
    """Method and path template of every route of the application."""
    app = create_app(Settings.model_validate({"signing_key": SIGNING_KEY}))
    found = [*app.routes, *(route for router in ROUTERS for route in router.routes)]
    return {
        (method, route.path)
        for route in found
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }


def test_every_route_has_a_scope(routes):
    assert len(routes) > 25
    assert {(method, path) for method, path in routes if path not in OPEN_PATHS} == set(SCOPES)


def test_nothing_is_open_but_the_health_checks_and_the_description(routes):
    assert {"/healthz", "/readyz", "/docs", "/openapi.json"} == OPEN_PATHS
    assert {(method, path) for method, path in routes if path in OPEN_PATHS} == {("GET", path) for path in OPEN_PATHS}


@pytest.mark.parametrize(("row", "scope"), SCOPES.items(), ids=lambda value: " ".join(value))
def test_a_path_is_found_by_its_template(row, scope):
    method, template = row
    path = template.replace("{id}", "svc-tiny-dial").replace("{name}", "alpha")

    assert required_scope(method, path) is scope


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/services/a/b:start"),
        ("POST", "/v1/hosts"),
        ("GET", "/v1/keys/"),
        ("GET", "/V1/hosts"),
        ("PUT", "/v1/services/svc-tiny-dial"),
    ],
)
def test_what_the_table_does_not_name_has_no_scope(method, path):
    assert required_scope(method, path) is None


def test_head_requires_what_get_does_and_a_preview_only_reads():
    assert required_scope("HEAD", "/v1/keys") is Scope.ADMIN
    assert required_scope("POST", "/v1/services/svc-tiny-dial:plan") is Scope.READ


@pytest.mark.parametrize(
    ("scope", "included"),
    [
        ("read", "read"),
        ("operate", "read operate"),
        ("admin", "read operate admin gateway"),
        ("infer", "infer"),
        ("gateway", "gateway"),
    ],
)
def test_a_scope_includes_the_narrower_ones_and_infer_stands_alone(scope, included):
    caller = Caller("ci", "1", frozenset({Scope(scope)}))

    assert {each for each in Scope if caller.may(each)} == set(included.split())


def test_a_refusal_names_the_key_and_the_scope_that_it_lacks():
    with pytest.raises(InsufficientScope, match=r"ci.*operate"):
        Caller("ci", "1", frozenset({Scope.READ})).require(Scope.OPERATE)
    LOCAL.require(Scope.ADMIN)


@pytest.mark.parametrize(("path", "body"), [(":start", {"port": 20001}), (":stop", {}), (":restart", {})])
def test_an_order_names_the_key_of_its_request(guarded, redis, path, body):
    ScriptedWorker(redis, arch=arch(), routes=(f"cpu.{arch()}",))
    guarded.ask("POST", f"/v1/services/{SERVICE}:start", json={"hosts": ["alpha"]})
    key = guarded.create("ci", "operate")

    answer = guarded.ask("POST", f"/v1/services/{SERVICE}{path}", key, json=body)

    orders = [redis.hget(keys.operation(each["id"]), "order") for each in answer.json()["operations"]]
    assert {json.loads(order)["caller"] for order in orders} == {"ci"}
