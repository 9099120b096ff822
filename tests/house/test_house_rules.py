"""Rules of the house that import contracts cannot express: homes of libraries, of Redis keys, of engine names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from house.exceptions import LIBRARIES
from house.sources import MODULES, ROOT, imported, place, tree

HOMES = {
    "docker": ("aima_worker/runtimes/docker/sdk/",),
    "celery": ("aima_core/queue/", "aima_worker/execution/", "aima_worker/celery.py"),
    "prometheus_client": ("aima_api/http/metrics.py",),
    "pynvml": ("aima_worker/node/nvml.py",),
    "yaml": ("aima_api/catalog/", "aima_api/cli/"),
}
"""Libraries, and the only places that import them."""
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
    ("aima_api/cli/commands/doctor.py", "aima_api.doctor.checks"),
    ("aima_api/cli/commands/doctor.py", "aima_api.doctor.finding"),
    ("aima_api/cli/commands/processes.py", "aima_api.up.app"),
}
"""The commands that are no client of the API: they check a catalog, check a machine, or run everything on it."""
EXAMPLES = {"aima_core/domain/ids.py", "aima_core/domain/catalog.py"}
"""Where an engine's name shows what a good one looks like."""


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_home_only(library):
    importers = {place(path) for path in MODULES if any(name.split(".")[0] == library for name in imported(path))}

    elsewhere = {importer for importer in importers if not importer.startswith(HOMES[library])}
    assert importers, f"no module imports {library}: the rule is stale"
    assert [importer for importer in elsewhere if (library, importer) not in LIBRARIES] == []


def test_the_worker_imports_no_library_that_serves_http():
    servers = {
        (place(path), name)
        for path in MODULES
        for name in imported(path)
        if place(path).startswith("aima_worker/") and {name, name.split(".")[0]} & HTTP_SERVERS
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


def test_every_key_that_is_spelled_is_documented():
    from aima_core.redis import keys

    spelled = {
        node.value.rstrip(":")
        for node in ast.walk(ast.parse(Path(keys.__file__).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("aima:")
    }

    assert [key for key in spelled if key not in (keys.__doc__ or "")] == []


def test_the_command_line_imports_the_core_and_itself_only():
    foreign = {
        (place(path), name)
        for path in (ROOT / "aima_api/cli").rglob("*.py")
        for name in imported(path)
        if name.startswith(("aima_api", "aima_worker")) and not name.startswith(("aima_api.cli", "aima_api.client"))
    }

    assert foreign == WORKS_ON_THIS_MACHINE


def test_the_path_of_a_start_is_read_on_few_pages():
    page = (ROOT / "docs/architecture.md").read_text()
    path = re.findall(r"^\d\. `(aima_\S+\.py)`", page, re.MULTILINE)

    lines = sum(len((ROOT / file).read_text().splitlines()) for file in path)

    assert path[0].startswith("aima_api/routes/")
    assert "client.create_container" in (ROOT / path[-1]).read_text()
    assert len(path) < 10
    assert lines < 900


def test_nothing_happens_at_import():
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
