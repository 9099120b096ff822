"""Reads the paths, links, commands and variables in the code spans and blocks of the project's documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("aima_core", "aima_worker", "aima_api", "catalog", "deploy", "docs", "tests", "bench", ".ci")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_PATH = re.compile(rf"(?:\./)?((?:{'|'.join(map(re.escape, PACKAGES))})/[\w./-]*[\w/])")
_COMMAND = re.compile(r"(?:^|[$] |\.venv/bin/)(aima (?:[^|&;#]|\|(?=\S))+)")
_VARIABLE = re.compile(r"\bAIMA_[A-Z0-9_]+\b")
_SHELLS = ("sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Named:
    """A mention in a document."""

    document: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def documents() -> list[Path]:
    return [path for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]


def paths() -> Iterator[Named]:
    """Every path of the repository in code; one with a placeholder, such as `<name>`, is none."""
    for document, code in _code():
        for found in _PATH.finditer(code):
            before, after = code[: found.start()][-1:], code[found.end() :][:1]
            if before not in ("/", "_", "<") and after not in ("<", "*", "{", "…"):
                yield Named(document, found[1])


def links() -> Iterator[tuple[Path, str]]:
    """Every relative link with its document."""
    for document in documents():
        for target in _LINK.findall(_FENCE.sub("", document.read_text())):
            if "://" not in target and not target.startswith("mailto:"):
                yield document, target


def anchors(document: Path) -> set[str]:
    headings = _HEADING.findall(_FENCE.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> Iterator[Named]:
    """Every `aima …` command line in code."""
    for document, code in _code():
        for line in code.replace("\\\n", " ").splitlines():
            yield from (Named(document, found) for found in commands_in(line.strip()))


def commands_in(line: str) -> list[str]:
    return [found.strip() for found in _COMMAND.findall(line)]


def variables() -> Iterator[Named]:
    for document, code in _code():
        yield from (Named(document, found) for found in _VARIABLE.findall(code))


def spans(text: str) -> list[str]:
    return _SPAN.findall(text)


def _code() -> Iterator[tuple[str, str]]:
    for document in documents():
        name, text = str(document.relative_to(ROOT)), document.read_text()
        yield from ((name, block) for language, block in _FENCE.findall(text) if language in ("", *_SHELLS))
        yield from ((name, span) for span in _SPAN.findall(_FENCE.sub("", text)))
