"""Units: a duration is a `timedelta`, also in a constant, whose name says which kind of duration it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from house.sources import MODULES, place, tree


def test_no_constant_holds_a_bare_number_of_seconds():
    bare = [
        f"{place(path)}: {name}" for path in MODULES for name in _constants(tree(path)) if "SECONDS" in name.split("_")
    ]

    assert bare == []


def _constants(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name) and target.id.isupper())
