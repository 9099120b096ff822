"""Rules of the house that import contracts cannot express: homes of libraries, of Redis keys, of engine names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from house.recorded_start import documented_calls, into_a_runtime, record_start
from house.sources import MODULES, ROOT, imported, place, tree

HTTP_ROOMS = ("aima_api/routes/", "aima_api/http/", "aima_api/events/", "aima_api/logs/")
HOMES = {
    "docker": ("aima_worker/runtimes/docker/sdk/",),
    "celery": ("aima_core/queue/", "aima_worker/execution/", "aima_worker/celery.py"),
    "fastapi": ("aima_api/app.py", "aima_api/dependencies.py", *HTTP_ROOMS),
    "starlette": HTTP_ROOMS,
    "uvicorn": ("aima_api/http/server.py", "aima_api/http/connections.py"),
    "prometheus_client": ("aima_api/http/metrics.py", "aima_api/http/server.py", "aima_api/gateway/metrics.py"),
    "pynvml": ("aima_worker/node/nvml.py",),
    "yaml": ("aima_api/catalog/", "aima_api/cli/"),
    "huggingface_hub": ("aima_api/models/",),
}
"""Libraries, and the only places that import them."""
DATA_PLANE = "aima_worker/dataplane/"
"""The only listener of a host."""
HTTP_SERVERS = {
    "aiohttp",
    "bottle",
    "fastapi",
    "flask",
    "http.server",
    "socketserver",
    "starlette",
    "tornado",
    "uvicorn",
}
WORKS_ON_THIS_MACHINE = {
    ("aima_api/cli/commands/catalog.py", "aima_api.catalog"),
    ("aima_api/cli/commands/catalog.py", "aima_api.models.proposal"),
    ("aima_api/cli/commands/catalog.py", "aima_api.specs"),
    ("aima_api/cli/commands/documents.py", "aima_api.specs.files"),
    ("aima_api/cli/commands/local.py", "aima_api.backup"),
    ("aima_api/cli/commands/local.py", "aima_api.doctor.checks"),
    ("aima_api/cli/commands/local.py", "aima_api.up.app"),
    ("aima_api/cli/commands/local.py", "aima_api.up.detached"),
}
"""The commands that are more than a client of the API: they check files or a machine, or run everything on it."""
MOST_ON_THE_PATH = 60
IF_THE_PORT_IS_TAKEN = "aima_worker/port_owner.py"
"""Entered only where another process of the machine has the first free port."""
VALUES = ("aima_core/domain/", "aima_api/http/schemas.py", "aima_api/access/scopes.py", "aima_worker/runtimes/")
EXAMPLES = {f"aima_core/domain/{name}.py" for name in ("ids", "fields", "catalog")}
"""Where an engine's name shows what a good one looks like."""


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_in_its_home(library):
    importers = {place(path) for path in MODULES if any(name.split(".")[0] == library for name in imported(path))}

    assert importers, f"no module imports {library}: the rule is stale"
    assert [importer for importer in importers if not importer.startswith(HOMES[library])] == []


def test_the_worker_imports_no_library_that_serves_http_outside_of_its_data_plane():
    servers = {
        (place(path), name)
        for path in MODULES
        for name in imported(path)
        if place(path).startswith("aima_worker/")
        and not place(path).startswith(DATA_PLANE)
        and {name, name.split(".")[0]} & HTTP_SERVERS
    }

    assert servers == set()


def test_redis_keys_are_spelled_in_one_module():
    spelled = {
        place(path)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("aima:")
    }

    assert spelled == {"aima_core/redis/keys.py"}


def test_every_redis_key_is_documented():
    from aima_core.redis import keys

    spelled = {
        node.value.rstrip(":")
        for node in ast.walk(ast.parse(Path(keys.__file__).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("aima:")
    }

    assert [key for key in spelled if key not in (keys.__doc__ or "")] == []


def test_the_command_line_imports_only_itself_and_the_core():
    foreign = {
        (place(path), name)
        for path in (ROOT / "aima_api/cli").rglob("*.py")
        for name in imported(path)
        if name.startswith(("aima_api", "aima_worker")) and not name.startswith(("aima_api.cli", "aima_api.client"))
    }

    assert foreign == WORKS_ON_THIS_MACHINE


@pytest.mark.redis
def test_the_path_of_a_start_is_documented_in_call_order(redis_url, redis, tmp_path):
    calls = record_start(redis_url, redis, tmp_path)

    path = documented_calls()
    reached = {
        path[0][0],
        "aima_worker/execution/celery_worker.py",
    }  # the first is called by the router, the second by Celery
    for caller, callee in path:
        assert caller in reached, f"no row above leads to {caller}"
        reached.add(callee)
    assert path[0][0].startswith("aima_api/routes/")
    assert [call for call in path if not into_a_runtime(call) and call not in calls.pairs] == []
    assert len(reached) <= 13


@pytest.mark.redis
def test_a_start_enters_few_modules(redis_url, redis, tmp_path):
    """Counted on the API node and in the worker, without what only describes values and without the fake runtime."""
    entered = record_start(redis_url, redis, tmp_path).entered - {IF_THE_PORT_IS_TAKEN}

    counted = sorted(each for each in entered if not each.startswith(VALUES))
    assert len(counted) <= MOST_ON_THE_PATH, "\n".join(counted)


def test_importing_a_module_has_no_side_effects():
    def is_inert(node: ast.stmt) -> bool:
        return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))

    acting = [f"{place(path)}:{node.lineno}" for path in MODULES for node in tree(path).body if not is_inert(node)]

    assert acting == []


def test_no_engine_of_the_catalog_is_named_in_code():
    names = [path.stem for path in (ROOT / "catalog/engines").rglob("*.yaml")]
    naming = {
        (place(path), name)
        for path in MODULES
        for node in ast.walk(_without_docstrings(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for name in names
        if name in node.value
    }

    assert {found for found in naming if found[0] not in EXAMPLES} == set()


def _without_docstrings(path: Path) -> ast.Module:
    module = ast.parse(path.read_text())
    for node in ast.walk(module):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
    return module
