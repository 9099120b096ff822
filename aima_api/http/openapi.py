"""The OpenAPI document, completed from the code, and its rendering as a page that loads nothing from elsewhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

from aima_api.http.problems import MEDIA_TYPE, Problem

router = APIRouter(include_in_schema=False)

_SCHEMAS = "#/components/schemas/"
_METHODS = ("get", "post", "put", "patch", "delete")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "h2{margin-top:2em;border-bottom:1px solid #ccc}h3{margin:1.5em 0 0}code{font-size:.95em}"
    "table{border-collapse:collapse;width:100%}td{border-top:1px solid #ddd;padding:.2em .8em .2em 0}"
    "td:first-child{white-space:nowrap}nav a{margin-right:1em}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8bf}}"
)
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def complete_openapi(app: FastAPI) -> None:
    """Makes `app.openapi` return the framework's document with what it leaves out, and `/docs` render it once."""
    generate = app.openapi

    @cache
    def completed() -> dict[str, Any]:
        document = generate()
        for item in document["paths"].values():
            for operation in item.values():
                _complete(operation)
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Problem"] = Problem.model_json_schema(ref_template=_SCHEMAS + "{model}")
        return document

    app.openapi = completed  # type: ignore[method-assign]  # FastAPI's documented way to change its document
    app.state.docs = cache(lambda: "".join(_rendered(completed())))


@router.get("/docs", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """A page that describes the API."""
    return HTMLResponse(request.app.state.docs(), headers=_HEADERS)


def _complete(operation: dict[str, Any]) -> None:
    """Summary from the docstring, parameter texts from their types, problem documents in place of the framework's."""
    summary, _, rest = operation.pop("description", "").replace("\n", " ").partition(". ")
    operation["summary"] = summary.rstrip(".")
    if rest:
        operation["description"] = " ".join(rest.split())
    for parameter in operation.get("parameters", ()):
        parameter.setdefault("description", _alternatives(parameter["schema"])[0].get("description", ""))
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "Why the request was refused (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}},
    }


def _rendered(document: Mapping[str, Any]) -> Iterator[str]:
    operations = [
        (method, path, item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]
    schemas = document["components"]["schemas"]
    tags = list(dict.fromkeys(operation["tags"][0] for _, _, operation in operations))
    yield "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    yield f"<title>AIMA API</title><style>{_STYLE}</style><h1>AIMA API</h1>"
    yield "<p>Every response that is not a success is a problem document with a stable <code>code</code>. "
    yield "Send <code>Authorization: Bearer KEY</code>. The same as JSON: <a href=openapi.json>openapi.json</a>.</p>"
    yield "<nav>" + "".join(f"<a href='#{escape(tag)}'>{escape(tag)}</a>" for tag in [*tags, "schemas"]) + "</nav>"
    for tag in tags:
        yield f"<h2 id='{escape(tag)}'>{escape(tag)}</h2>"
        for method, path, operation in operations:
            if operation["tags"][0] == tag:
                yield from _operation(method, path, operation)
    yield "<h2 id=schemas>schemas</h2>"
    for name, schema in sorted(schemas.items()):
        yield f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{_text(schema.get('description', ''))}</p>"
        required = schema.get("required", ())
        yield (
            _table(
                (field, _type(each), each.get("description") or _note(each), field in required)
                for field, each in schema.get("properties", {}).items()
            )
            or f"<p>{_type(schema)}</p>"
        )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
    yield f"<p><b>{_text(operation['summary'])}.</b> {_text(operation.get('description', ''))}</p>"
    parameters = operation.get("parameters", ())
    yield _table(
        (each["name"], f"{each['in']}: {_type(each['schema'])}", each["description"], each.get("required", False))
        for each in parameters
    )
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield f"<p>Body: {_type(content['schema'])}</p>"
    for status, response in operation["responses"].items():
        if status != "default":
            kinds = [_type(each["schema"]) for each in response.get("content", {}).values() if each.get("schema")]
            yield f"<p>{status}: {', '.join(kinds) or _text(response['description'])}</p>"


def _table(rows: Iterator[tuple[str, str, str, bool]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code>{' *' if required else ''}<td>{kind}<td>{_text(text)}"
        for name, kind, text, required in rows
    )
    return f"<table>{lines}</table>" if lines else ""


def _type(schema: Mapping[str, Any]) -> str:
    """As HTML, with a link to each named schema."""
    return " or ".join(dict.fromkeys(_type_of(each) for each in _alternatives(schema))) or "any"


def _type_of(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type", "any")))


def _alternatives(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas that it may be, without null."""
    alternatives = schema.get("anyOf") or [schema]
    return [each for each in alternatives if each.get("type") != "null"] or [schema]


def _note(schema: Mapping[str, Any]) -> str:
    return str(_alternatives(schema)[0].get("description", ""))


def _text(text: str) -> str:
    """Escaped, with the words between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
