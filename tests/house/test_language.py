"""Language: comments and docstrings name the mechanisms by the field's words, without idioms."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from house.sources import PACKAGES, ROOT, place

LEAST_MECHANISM_WORDS = 25
"""Of 1,000 words of prose."""
MOST_IDIOMS = 1
"""Of 1,000 words of prose."""
MECHANISM = re.compile(
    r"\b(retr(y|ies|ied|ying)|backoff|atomic\w*|race|races|racy|reconcil\w+|schedul\w+|requeue\w*|redeliver\w*|"
    r"heartbeat\w*|leas\w+|stale|snapshot\w*|TTL|timeout\w*|lock\w*|idempoten\w+|poll\w*|cache\w*|expir\w+|restart\w*|"
    r"enqueue\w*|subscri\w+|blocked|queue\w*|worker\w*|shutdown|concurren\w+|thread\w*|partition\w*|crash\w*|duplicate\w*|fenc\w+|"
    r"failover|rollback|deadline\w*|quota\w*|throttl\w*)\b",
    re.IGNORECASE,
)
IDIOM = re.compile(
    r"\b(tell|tells|told|telling|hear|hears|heard|speak|speaks|spoke|spoken|somebody|nobody|anybody|everybody|whoever|"
    r"whichever|anew|shall|mend|mends|mended|rung|doorbells?|wishe?s?|put down|puts down|written down|let go|lets go|"
    r"goes on|go on|for all that|all the same|makes? no sense|nonsense|senseless|strangers?|aftercare|undertaking|"
    r"last words|of its own accord|those that|what is|what was|one that|"
    r"rings? again|ringing|in its place|handed on|hands on|hand on|taken on|takes on|takes it on|brings? back|"
    r"brought back|bring up|brings up|bringing up|taken down|takes down|take down|ails?|ailing|beat|beats|pulses?|"
    r"upkeep|calls? off|called off|mishaps?|harmless|tally|prospects?|for so long|for as long as|felled|want of|"
    r"in good order|comes? to nothing|gives? up|given up|not to be had)\b",
    re.IGNORECASE,
)
"""The list that other projects are measured by and, from `rings again` on, more words of this project's own past."""
SOURCES = [
    path for package in PACKAGES for path in sorted((ROOT / package).rglob("*")) if path.suffix in {".py", ".lua"}
]


def test_prose_names_the_mechanisms():
    assert _per_thousand_words(MECHANISM) >= LEAST_MECHANISM_WORDS


def test_prose_has_few_idioms():
    found = [f"{place(path)}:{number}: {line.strip()}" for path, number, line in _prose() if IDIOM.search(line)]

    assert _per_thousand_words(IDIOM) <= MOST_IDIOMS, "\n".join(found)


def _per_thousand_words(pattern: re.Pattern[str]) -> float:
    lines = [line for _, _, line in _prose()]
    return 1000 * sum(len(pattern.findall(line)) for line in lines) / sum(len(line.split()) for line in lines)


@cache
def _prose() -> list[tuple[Path, int, str]]:
    """Each line of a comment or a docstring, with its place."""
    read = {path: _lua_comments if path.suffix == ".lua" else _python_prose for path in SOURCES}
    return [(path, number, line) for path, lines in read.items() for number, line in lines(path.read_text())]


def _lua_comments(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        if line.strip().startswith("--"):
            yield number, line.strip()[2:]


def _python_prose(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from enumerate(node.value.value.splitlines(), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string[1:]
