"""Rooms: a folder has one subject, few modules and one sentence, and rooms import each other in one direction."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter

import pytest
from house.sources import MODULES, PACKAGES, imported, place, tree

MOST_IN_A_ROOM = 13
WITHOUT_CODE = ("__init__.py", "__main__.py")
MOST_MODULES = 282
FILES = [path for path in MODULES if path.name not in WITHOUT_CODE]
ROOMS = [path for path in MODULES if path.name == "__init__.py"]


def test_no_room_has_more_than_thirteen_modules():
    sizes = Counter(place(path.parent) for path in FILES)

    assert {room: size for room, size in sizes.items() if size > MOST_IN_A_ROOM} == {}


def test_the_packages_have_few_modules():
    assert len(FILES) <= MOST_MODULES


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: place(path.parent))
def test_a_room_says_in_one_sentence_what_it_owns(room):
    docstring = ast.get_docstring(tree(room)) or ""

    assert docstring.endswith(".")
    assert len(tree(room).body) == 1
    assert ". " not in docstring.replace("\n", " ")


def test_no_public_class_name_is_used_twice():
    names = Counter(
        node.name
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )

    assert [name for name, times in names.items() if times > 1] == []


def test_no_import_closes_a_circle_between_rooms():
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for path in FILES:
        here = _room(place(path).removesuffix(".py").split("/"))
        there = {_room(name.split(".")) for name in imported(path, at_run_time_only=True) if _is_ours(name)}
        graph[here] |= there - {here}

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(reversed(circle.args[1])), pytrace=False)


def _room(parts: list[str]) -> str:
    """A folder of a package with all below it, or a module that lies in the package itself."""
    return "/".join(parts[:2])


def _is_ours(module: str) -> bool:
    return module.startswith(tuple(f"{package}." for package in PACKAGES))
