"""The modules of the three packages as syntax trees, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("aima_core", "aima_worker", "aima_api")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path, *, at_run_time_only: bool = False) -> Iterator[str]:
    """The modules that a module imports anywhere in it; without those below `if TYPE_CHECKING` on request."""
    skipped = _for_types_only(tree(path)) if at_run_time_only else set()
    for node in ast.walk(tree(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _for_types_only(module: ast.Module) -> set[ast.AST]:
    return {
        node
        for branch in ast.walk(module)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for statement in branch.body
        for node in ast.walk(statement)
    }
