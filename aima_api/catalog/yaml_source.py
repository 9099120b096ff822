"""The YAML parser of the catalog: plain values with their line and column, and the syntax that no entry may use.

It reads PyYAML's events rather than its nodes: composing a deeply nested file crashes the process by a stack overflow,
and aliases (which expand exponentially) can be refused only as events. Fields are the schema's subject.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml.reader import Reader
from yaml.resolver import Resolver

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_MISTAKES = 50
"""Reported per file."""

Path_ = tuple[str | int, ...]
"""Keys and list indexes, from the top of the file down."""
Plain = bool | int | float | str | None | tuple["Plain", ...] | dict[str, "Plain"]

_TAG = "tag:yaml.org,2002:"
_PLAIN_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_PLAIN_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,24}(?:[eE][-+][0-9]{1,3})?")
_RESOLVE = Resolver()


@dataclass(frozen=True, order=True)
class Mistake:
    """A problem in a file and its fix. Lines and columns count from 1."""

    file: Path
    line: int
    column: int
    field: str
    """Dotted path; empty for the file as a whole."""
    problem: str
    right: str

    def __str__(self) -> str:
        what = f"{self.field}: {self.problem}" if self.field else self.problem
        return f"{self.file}:{self.line}:{self.column}: {what}; {self.right}"


@dataclass(frozen=True)
class Spot:
    """The position of a value, and its source text."""

    line: int
    column: int
    written: str | None
    """A scalar's text without quotes; None for a list or mapping."""
    key: tuple[int, int] | None
    """The position of its key; None in a list and at the top."""


@dataclass
class Document:
    """A file's value, the position of every value in it, and its mistakes."""

    file: Path
    value: dict[str, Plain] | None = None
    spots: dict[Path_, Spot] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def report(self, at: tuple[int, int], path: Path_, problem: str, fix: str) -> None:
        """Records a mistake, at most one per field and position."""
        field_ = _shortened(".".join(map(str, path)))
        known = any((each.line, each.column, each.field) == (*at, field_) for each in self.mistakes)
        if not known and len(self.mistakes) < MAX_MISTAKES:
            self.mistakes.append(Mistake(self.file, *at, field_, _shortened(problem), _shortened(fix)))

    def report_at(self, path: Path_, problem: str, fix: str, *, key: bool = False) -> None:
        """Records a mistake at the value or its key; for a missing value, at the nearest parent."""
        known = path
        while known not in self.spots and known:
            known = known[:-1]
        spot = self.spots.get(known, Spot(1, 1, None, None))
        by_key = spot.key and (key or known != path or spot.written is None)
        self.report(spot.key if by_key and spot.key else (spot.line, spot.column), path, problem, fix)


class _Unreadable(Exception):
    """The rest of the file cannot be parsed; the mistake is recorded."""


def read_yaml(file: Path) -> Document:
    """Returns a document without `mistakes` if the file is one valid YAML mapping."""
    document = Document(file)
    with suppress(_Unreadable):
        document.value = _Builder(document, _text(document)).build()
    return document


def read_each(file: Path, content: bytes | None = None, *, most: int) -> list[Document]:
    """The documents of a file or a pipe, without empty ones; at most so many.

    Like `read_yaml` each has its own mistakes; those of the file as a whole belong to the last one.
    """
    found = [Document(file)]
    with suppress(_Unreadable):
        text = _text(found[0]) if content is None else _decoded(found[0], content)
        _Builder(found[0], text).build_each(found, most)
    return [each for each in found if each.value is not None or each.mistakes]


def yaml_files(root: Path) -> list[Path]:
    """All but hidden ones."""
    found = (file for file in root.rglob("*.y*ml") if file.suffix in (".yaml", ".yml") and not file.is_dir())
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(root).parts))


def _text(document: Document) -> str:
    try:
        content = _content(document)
    except OSError as wrong:
        fix = "name one that exists" if isinstance(wrong, FileNotFoundError) else "make it readable"
        raise _fatal(document, (1, 1), f"cannot be read ({wrong.strerror})", fix) from None
    return _decoded(document, content)


def _decoded(document: Document, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _fatal(document, (1, 1), "is larger than 1 MiB", "an entry takes a few dozen lines")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        at = _position(content[: wrong.start].decode("utf-8", "replace"))
        raise _fatal(document, at, "contains bytes that are not UTF-8", "save the file as UTF-8") from None
    if found := Reader.NON_PRINTABLE.search(text):
        at = _position(text[: found.start()])
        raise _fatal(document, at, f"contains the control character {found[0]!a}", "remove it")
    return text


def _content(document: Document) -> bytes:
    # Opening a pipe or device without O_NONBLOCK would block for ever.
    with os.fdopen(os.open(document.file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise _fatal(document, (1, 1), "is not a regular file", "replace it with a YAML file")
        return opened.read(MAX_BYTES + 1)


def _position(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _fatal(document: Document, at: tuple[int, int], problem: str, fix: str) -> _Unreadable:
    document.report(at, (), problem, fix)
    return _Unreadable()


class _Builder:
    """Builds the value from the parser's events; records positions and mistakes in the document."""

    def __init__(self, document: Document, text: str) -> None:
        self._document = document
        self._events = self._parsed(text)

    def build(self) -> dict[str, Plain]:
        next(self._events)  # the stream's start
        first = next(self._events)
        if isinstance(first, yaml.StreamEndEvent):
            raise _fatal(self._document, (1, 1), "is empty", "write an entry, field by field")
        value = self._value(next(self._events), (), None)
        next(self._events)  # the document's end
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            raise _fatal(self._document, _at(after), "begins a second document", "give each entry a file of its own")
        if not isinstance(value, dict):
            raise _fatal(self._document, (1, 1), "is not a mapping", "write fields, such as `name: my-engine`")
        return value

    def build_each(self, found: list[Document], most: int) -> None:
        """Appends each document as it begins, so that what ends the reading is one of its mistakes."""
        next(self._events)  # the stream's start
        while not isinstance(begin := next(self._events), yaml.StreamEndEvent):
            if len(found) > most:
                raise _fatal(self._document, _at(begin), f"has more than {most} documents", "split the file")
            self._document = Document(self._document.file)
            found.append(self._document)
            first = next(self._events)
            is_empty = isinstance(first, yaml.ScalarEvent) and first.value == "" and first.implicit[0]
            value = None if is_empty else self._value(first, (), None)
            next(self._events)  # the document's end
            if isinstance(value, dict):
                self._document.value = value
            elif not is_empty:
                self._document.report(_at(first), (), "is not a mapping", "write fields, such as `kind: service`")

    def _parsed(self, text: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(text, yaml.CSafeLoader)
        except yaml.MarkedYAMLError as wrong:
            mark = wrong.problem_mark or wrong.context_mark
            at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            is_tab = mark is not None and text[mark.index : mark.index + 1] == "\t"
            fix = "indent with spaces, not tabs" if is_tab else "fix it there or just above"
            reason = ", ".join(part for part in (wrong.context, wrong.problem) if part)
            raise _fatal(self._document, at, f"is not YAML: {reason}", fix) from None

    def _value(self, event: yaml.Event, path: Path_, key: tuple[int, int] | None) -> Plain:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _fatal(self._document, _at(event), "uses a YAML anchor or alias", "write the value out in full")
        if len(path) > MAX_DEPTH:
            raise _fatal(self._document, _at(event), "is nested too deeply", "no field lies that deep")
        written = event.value if isinstance(event, yaml.ScalarEvent) else None
        self._document.spots.setdefault(path, Spot(*_at(event), written, key))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if event.tag not in (None, "!"):  # type: ignore[attr-defined]  # every start of a collection has one
            self._document.report(_at(event), path, f"has the tag {event.tag!r}", "remove the tag")  # type: ignore[attr-defined]  # as above
        return self._sequence(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _sequence(self, path: Path_) -> Plain:
        items: list[Plain] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items)), None))
        return tuple(items)

    def _mapping(self, path: Path_) -> Plain:
        fields: dict[str, Plain] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor:
                raise _fatal(self._document, _at(event), "has a key that is not plain text", "write `field: value`")
            below = (*path, event.value)
            if event.value in fields:
                first = self._document.spots[below].key
                problem = f"is given twice, first on line {first[0] if first else 1}"
                self._document.report(_at(event), below, problem, "keep one of the two")
            value = self._value(next(self._events), below, _at(event))
            fields.setdefault(event.value, value)
        return fields

    def _scalar(self, event: yaml.ScalarEvent, path: Path_) -> Plain:
        tag: str = event.tag or _RESOLVE.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]  # PyYAML's own
        match tag.removeprefix(_TAG):
            case "null":
                self._document.report(_at(event), path, "has no value", "give it one, or remove it")
                return None
            case "bool":
                return event.value.lower() in ("true", "yes", "on")
            case "int" if _PLAIN_INTEGER.fullmatch(event.value):
                return int(event.value)
            case "float" if _PLAIN_FLOAT.fullmatch(event.value) and math.isfinite(float(event.value)):
                return float(event.value)
            case "int" | "float":
                problem = f"`{event.value}` is a number in a notation special to YAML"
                self._document.report(_at(event), path, problem, "write it in plain digits, or in quotes for text")
            case "str" | "timestamp" | "value" | "merge" | "!":
                pass
            case _:
                self._document.report(_at(event), path, f"has the tag {tag!r}", "remove the tag")
        return event.value


def _at(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _shortened(text: str) -> str:
    printable = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text[:240])
    return printable if len(text) <= 240 else f"{printable}…"
