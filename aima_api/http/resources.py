"""Method and query checks by path template: HEAD, OPTIONS, 405 with `Allow`, and unknown query parameters.

Of the templates that match a path, the most literal one counts: `…/{id}:start` before `…/{id}`. The framework alone
answers 405 with the methods of one route only, has no OPTIONS, and ignores a misspelled query parameter.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from difflib import get_close_matches
from urllib.parse import parse_qsl

from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_api.http.problems import PATHS_HINT, problem
from aima_core.errors import AimaError, InvalidRequest, MethodNotAllowed, NotFound

_INFERENCE = re.compile(
    r"/v1/(?:(?:chat/)?completions|responses|embeddings|rerank|messages|realtime|moderations|batches"
    r"|images/.*|(?:audio|files|assistants|threads|fine_tuning|vector_stores)(?:/.*)?)"
)
"""Paths of the OpenAI and Anthropic APIs that engines serve, and an API node does not."""
_MODELS = "/v1/models"
_OPENAI_CLIENT = "x-stainless-lang"
"""A header that OpenAI's own clients send. They would read AIMA's listing at `/v1/models` as an empty one."""


class Resource:
    """A path template, its methods, and the query parameters of each."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern = pattern
        self._parameters: dict[str, list[str]] = {}

    def add(self, route: Route | APIRoute) -> None:
        every = get_flat_params(route.dependant) if isinstance(route, APIRoute) else []
        for method in (route.methods or set()) - {"HEAD"}:
            self._parameters[method] = [each.alias for each in every if isinstance(each.field_info, Query)]

    @property
    def allow(self) -> str:
        head = ["HEAD"] if "GET" in self._parameters else []
        return ", ".join(sorted([*self._parameters, *head, "OPTIONS"]))

    def check(self, method: str, path: str, query: bytes) -> None:
        """Raises MethodNotAllowed, and InvalidRequest for an unknown query parameter."""
        known = self._parameters.get(method)
        if known is None:
            raise MethodNotAllowed(method=method, path=path[:200], allowed=self.allow)
        given = parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []
        if unknown := [name for name, _ in given if name not in known]:
            raise InvalidRequest(
                detail=f"{unknown[0][:100]!r} is not a query parameter of {method} {path[:200]}.",
                remedy=_known_parameters(unknown[0], known),
            )


class ResourceMiddleware:
    """An ASGI middleware that answers what the router would not, and serves HEAD as GET without its body."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        resources: dict[str, Resource] = {}
        for route in routes:
            if isinstance(route, Route | APIRoute):
                resources.setdefault(route.path, Resource(route.path_regex)).add(route)
        most_literal_first = sorted(resources, key=lambda path: -len(re.sub(r"{\w+(:path)?}", "", path)))
        self._resources = [resources[path] for path in most_literal_first]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        try:
            resource = self._resource(path, Headers(scope=scope))
            if method != "OPTIONS":
                resource.check("GET" if method == "HEAD" else method, path, scope["query_string"])
        except AimaError as refusal:
            headers = {"Allow": resource.allow} if isinstance(refusal, MethodNotAllowed) else {}
            await problem(refusal, instance=path, headers=headers)(scope, receive, send)
            return
        if method == "OPTIONS":
            await Response(status_code=204, headers={"Allow": resource.allow})(scope, receive, send)
        elif method == "HEAD":
            await self._serve_head(scope, send)
        else:
            await self._app(scope, receive, send)

    def _resource(self, path: str, headers: Headers) -> Resource:
        """Raises NotFound."""
        found = next((each for each in self._resources if each.pattern.match(path)), None)
        if _INFERENCE.fullmatch(path) or (path == _MODELS and _OPENAI_CLIENT in headers):
            raise NotFound(
                path=path[:200],
                remedy="This is an API node, which runs no models. Send the request to the endpoint of a ready "
                f"instance (`aima service list` shows it), such as http://HOST:20000{path[:200]}.",
            )
        if found is None:
            raise NotFound(path=path[:200], remedy=PATHS_HINT)
        return found

    async def _serve_head(self, scope: Scope, send: Send) -> None:
        """Sends the headers of the GET. Then the route sees a disconnected client, which ends an event stream."""
        got, answered = {**scope, "method": "GET"}, asyncio.Event()

        async def receive_until_answered() -> Message:
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                if "route" in got:
                    scope["route"] = got["route"]  # for the metrics, which count by route
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                answered.set()

        await self._app(got, receive_until_answered, send_head)


def _known_parameters(given: str, known: list[str]) -> str:
    if not known:
        return "It takes none: omit the query."
    near = get_close_matches(given, known, 1)
    suggestion = f"Did you mean `{near[0]}`? " if near else ""
    return f"{suggestion}It takes {', '.join(f'`{name}`' for name in known)}."
