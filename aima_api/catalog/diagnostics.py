"""Diagnostics: translates the schema's validation errors of an entry into a problem and a fix, for its author.

The document knows the position of each value; names used across files are checked by the loader.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from aima_api.catalog.yaml_source import Document, Path_

E = TypeVar("E", bound=BaseModel)
Schema = Mapping[str, Any]
Sentence = tuple[str, str]

_NOUNS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def entry_in(document: Document, kind: type[E]) -> E | None:
    """The document as an entry of that kind. Returns None and records the mistakes in the document if it is invalid."""
    if document.value is None:
        return None
    try:
        return kind.model_validate(document.value, strict=True, extra="forbid")
    except ValidationError as wrong:
        schema = kind.model_json_schema()
        for error in wrong.errors(include_url=False):
            # pydantic reports a list whose items are all invalid as too short as well
            if not (error["type"] == "too_short" and error["input"]):
                _report(document, error, schema)
        return None


def nearest(wrong: str, known: list[str], count: int = 1) -> list[str]:
    """The known names closest to the wrong one, best first."""
    by_lower = {name.lower(): name for name in known}
    return [by_lower[name] for name in get_close_matches(wrong.lower()[:200], by_lower, count, 0.6)]


def suggestion(wrong: str, known: list[str]) -> str:
    close = nearest(wrong, known)
    return f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(known) or 'none'}"


def _report(document: Document, error: ErrorDetails, schema: Schema) -> None:
    is_key = error["loc"][-1:] == ("[key]",)
    path = error["loc"][:-1] if is_key else error["loc"]
    while error["type"] != "missing" and path not in document.spots:
        path = path[:-1]
    is_key = is_key or error["type"] == "extra_forbidden"
    spot = document.spots.get(path)
    written = str(path[-1]) if is_key and path else (spot and spot.written) or ""
    problem, fix = _sentence(error, path, written, schema)
    document.report_at(path, problem, fix, key=is_key)


def _sentence(error: ErrorDetails, path: Path_, written: str, schema: Schema) -> Sentence:
    accepted = _accepted(_schema_of(path, schema))
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        problem, _, fix = str(context["error"]).partition("; ")
        return problem, fix
    if error["type"] == "extra_forbidden":
        return "there is no such field", suggestion(written, list(_schema_of(path[:-1], schema).get("properties", {})))
    if noun := _NOUNS.get(error["type"]):
        return _wrong_type(error["input"], written, noun, accepted)
    if error["type"] not in _SENTENCES:
        return error["msg"], f"write {accepted}"
    problem, fix = _SENTENCES[error["type"]]
    values = {**context, "written": written, "accepted": accepted}
    return problem.format(**values), fix.format(**values)


_SENTENCES: dict[str, Sentence] = {
    "missing": ("is missing", "add it: {accepted}"),
    "literal_error": ("`{written}` is unknown here", "write {accepted}"),
    "too_short": ("is empty", "write {accepted}, with at least one item"),
    "greater_than": ("{written} is too small", "write more than {gt:g}"),
    "greater_than_equal": ("{written} is too small", "write {ge} or more"),
    "less_than_equal": ("{written} is too large", "write {le} or less"),
    "string_pattern_mismatch": ("`{written}` is malformed", "write {accepted}"),
    "string_too_long": ("is too long", "write at most {max_length} characters"),
}
"""Templates of the problem and the fix, by pydantic's error type."""


def _wrong_type(value: object, written: str, noun: str, accepted: str) -> Sentence:
    if isinstance(value, tuple | dict):
        return f"is {'a list' if isinstance(value, tuple) else 'a mapping'}, not {noun}", f"write {accepted}"
    is_what = "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "a number"
    problem = f"`{written}` is {is_what} to YAML, not {noun}"
    if noun == "text":
        return problem, f'put it in quotes: "{written}"'
    if noun == "a list":
        return problem, f"write `{_as_list(value)}`"
    quoted = isinstance(value, str) and (value in ("true", "false") or value.replace(".", "", 1).isdigit())
    return problem, f"write {accepted}{', without quotes' if quoted else ''}"


def _as_list(value: object) -> str:
    """The YAML list of the words of a text, split as a shell does; of another value, the list of that value."""
    words = [value]
    if isinstance(value, str):
        with suppress(ValueError):  # an unbalanced quote
            words = [*shlex.split(value)]
        if all(word.endswith(",") for word in map(str, words[:-1])):
            words = [str(word).rstrip(",") for word in words]
    return yaml.safe_dump(words, default_flow_style=True, width=sys.maxsize, allow_unicode=True).strip()


def _schema_of(path: Path_, schema: Schema) -> Schema:
    """The JSON schema of the value at the path; empty if the schema has no such path."""
    definitions = schema.get("$defs", {})
    for step in path:
        if isinstance(step, int):
            schema = schema.get("items", {})
        else:
            below = schema.get("additionalProperties") or {}
            schema = schema.get("properties", {}).get(step, below)
        schema = _resolved(schema, definitions)
    return schema


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    for choice in schema.get("anyOf", [])[:1]:
        schema = {"examples": schema.get("examples", []), **choice}
    if "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    return {**schema, "$defs": definitions}


def _accepted(schema: Schema) -> str:
    """What the schema accepts, as a phrase: ``text such as `repo/name:tag` ``."""
    if choices := schema.get("enum"):
        return "one of " + ", ".join(f"`{choice}`" for choice in choices)
    if "properties" in schema:
        return "the fields " + ", ".join(schema["properties"])
    such_as = f" such as `{schema['examples'][0]}`" if schema.get("examples") else ""
    least, most = schema.get("minimum"), schema.get("maximum")
    span = f" from {least} to {most}" if most is not None else f" of {least} or more" if least is not None else ""
    nouns = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "object": "a mapping"}
    if schema.get("type") == "array":
        items = schema.get("items", {})
        return f"a list, each {_accepted(_resolved(items, schema.get('$defs', {})))}"
    return nouns.get(schema.get("type", ""), "text") + such_as + span
