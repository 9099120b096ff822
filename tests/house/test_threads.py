"""Looping threads have one home: `aima_core/system/background.py`, whose error boundary keeps them alive."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from house.sources import MODULES, place, tree

HOME = "aima_core/system/background.py"
READER_THREADS = {"aima_worker/logs/tail.py"}
"""Modules whose thread reads one stream to its end and retries by itself, within an error boundary of its own."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_only_the_background_loop_starts_looping_threads():
    looping = {
        f"{place(path)}: {target}"
        for path in MODULES
        for target in looping_targets(tree(path))
        if place(path) not in {HOME, *READER_THREADS}
    }

    assert looping == set()


def test_the_check_finds_a_loop_in_what_a_thread_calls():
    source = """
class Reader:
    def start(self):
        Thread(target=self._run, daemon=True).start()
        Thread(target=self._read_once, daemon=True).start()
    def _run(self):
        self._read_all()
    def _read_all(self):
        while True:
            pass
    def _read_once(self):
        for line in self.lines:
            print(line)
"""

    assert list(looping_targets(ast.parse(source))) == ["_run"]


def looping_targets(module: ast.Module) -> Iterator[str]:
    """The functions that the module gives to `Thread(target=…)` and that loop, themselves or by what they call."""
    functions = {node.name: node for node in ast.walk(module) if isinstance(node, Function)}
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Thread":
            target = next((_name(keyword.value) for keyword in node.keywords if keyword.arg == "target"), None)
            if target and _loops(target, functions, seen=set()):
                yield target


def _loops(name: str, functions: dict[str, Function], *, seen: set[str]) -> bool:
    if name in seen or name not in functions:
        return False
    seen.add(name)
    nodes = list(ast.walk(functions[name]))
    called = {_name(node.func) for node in nodes if isinstance(node, ast.Call)}
    return any(map(_is_endless, nodes)) or any(_loops(each, functions, seen=seen) for each in called if each)


def _is_endless(node: ast.AST) -> bool:
    """A `while`, or a `for` over `count()`, `cycle()`, `repeat(…)` or `iter(function, sentinel)`."""
    if not isinstance(node, ast.For):
        return isinstance(node, ast.While)
    if not isinstance(node.iter, ast.Call):
        return False
    called = _name(node.iter.func)
    return called in {"count", "cycle", "repeat"} or (called == "iter" and len(node.iter.args) == 2)


def _name(node: ast.expr) -> str | None:
    """`run` for `run` and for `self.run`; None for what belongs to another object."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None
