"""Reads documents from files, directories and standard input; reports each mistake with file, line, field and fix."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aima_api.catalog.diagnostics import entry_in, suggestion
from aima_api.catalog.yaml_source import MAX_BYTES, Document, read_each, yaml_files
from aima_api.specs.documents import KINDS, MOST_DOCUMENTS, SpecDocument
from aima_core.errors import DocumentMistake

STDIN = "-"


class PlacedDocument(NamedTuple):
    document: SpecDocument
    at: str
    """File and line."""


def read_documents(paths: Iterable[str]) -> list[PlacedDocument]:
    """The documents of files, of all YAML files below directories, and of standard input (`-`), in their order.

    Raises DocumentMistake with every mistake.
    """
    sources = [source for path in paths for source in _sources(path)]
    placed = [_placed(source) for source in sources]
    _check_differ(sources, placed)
    if mistakes := sorted(mistake for source in sources for mistake in source.mistakes):
        raise DocumentMistake(count=len(mistakes), mistakes="\n".join(map(str, mistakes)))
    return [each for each in placed if each is not None]


def _sources(path: str) -> Iterator[Document]:
    place, found = Path(path), list[Document]()
    if path == STDIN:
        place = Path("(stdin)")
        found = read_each(place, sys.stdin.buffer.read(MAX_BYTES + 1), most=MOST_DOCUMENTS)
    elif place.is_dir():
        found = [each for file in yaml_files(place) for each in read_each(file, most=MOST_DOCUMENTS)]
    else:
        found = read_each(place, most=MOST_DOCUMENTS)
    if not found:
        found = [Document(place)]
        found[0].report((1, 1), (), "has no document", "write one, beginning with `kind: service`")
    yield from found


def _placed(source: Document) -> PlacedDocument | None:
    """None if it is invalid; its mistakes are recorded."""
    if source.value is None:
        return None
    kind = source.value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        problem = f"`{kind}` is unknown here" if "kind" in source.value else "is missing"
        fix = suggestion(str(kind), list(KINDS)) if kind else f"add it: one of {', '.join(KINDS)}"
        source.report_at(("kind",), problem, fix)
        return None
    document = entry_in(source, KINDS[kind])
    return None if document is None or source.mistakes else PlacedDocument(document, f"{source.file}:{_line(source)}")


def _check_differ(sources: Sequence[Document], placed: Sequence[PlacedDocument | None]) -> None:
    first: dict[tuple[str, str], str] = {}
    for source, each in zip(sources, placed, strict=True):
        if each is None:
            continue
        other = first.setdefault((each.document.kind, each.document.subject), each.at)
        if other != each.at:
            source.report_at((), f"{each.document.subject} has a document at {other}, too", "keep one of the two")


def _line(source: Document) -> int:
    return source.spots[()].line
