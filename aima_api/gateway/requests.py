"""Reads of a request's body what routing needs: `model` and `stream`, from JSON or from a form.

The body is kept as bytes, so that a retry sends it again. It is encoded again only where the engine knows the model by
another name, or a stream must report its usage.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from aima_api.gateway.inference import FORMS, STREAM_OPTIONS, Inference
from aima_core.domain.units import format_size
from aima_core.errors import BodyTooLarge, InvalidRequest, WrongContentType

Receive = Callable[[], Awaitable[dict[str, Any]]]
MAX_NAME = 256
"""Characters of a model's name."""
MAX_CHUNKS = 64
"""Of a WAV file, among which its format and its data must be."""
_BODIES = "See the API reference of OpenAI or Anthropic for this path."
_DISPOSITION = re.compile(rb'content-disposition:[^\r\n]*?;\s*name="?([^";\r\n]*)"?(?:;|\r\n)', re.IGNORECASE)
_BOUNDARY = re.compile(r'boundary="?([^";]{1,200})"?', re.IGNORECASE)


class ClientLeft(Exception):
    """The connection ended before the request was received."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Spoken(msgspec.Struct):
    input: str


class _Head(msgspec.Struct):
    """The part of a JSON body that is decoded; the rest is skipped."""

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


_head = msgspec.json.Decoder(_Head, strict=True).decode
_spoken = msgspec.json.Decoder(_Spoken).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ModelRequest:
    """A request as its client sent it."""

    __slots__ = ("_file", "_usage_wanted", "body", "boundary", "content_type", "model", "operation", "stream")

    def __init__(self, operation: Inference, content_type: str, body: bytes) -> None:
        """Raises InvalidRequest, WrongContentType."""
        self.operation = operation
        self.content_type = content_type
        self.body = body
        self.boundary = b""
        self.stream = False
        self._usage_wanted = True
        self._file = (0, 0)
        kind = content_type.partition(";")[0].strip().lower()
        accepted = "multipart/form-data" if operation in FORMS else "application/json"
        if kind != accepted:
            given = repr(content_type[:100]) if content_type else "of no stated type"
            raise WrongContentType(given=given, accepted=accepted)
        if operation in FORMS:
            self._read_form()
        else:
            self._read_json()
        if not self.model or len(self.model) > MAX_NAME:
            raise InvalidRequest(detail=f"`model` must have 1 to {MAX_NAME} characters.", remedy=_BODIES)

    @property
    def hides_usage(self) -> bool:
        """The stream's usage is asked for by the gateway, and not by the client."""
        return not self._usage_wanted

    def characters(self) -> int:
        """Of the text to be spoken."""
        try:
            return len(_spoken(self.body).input)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0

    def audio_seconds(self) -> float:
        """Of the uploaded file, as the header of a WAV file states them; 0 if it is of another format."""
        return _wav_seconds(self.body, *self._file)

    def body_for(self, name: str) -> bytes:
        """The body for an engine that knows the model by that name."""
        if self.operation in FORMS:
            return self.body if name == self.model else self._form_for(name)
        if name == self.model and self._usage_wanted:
            return self.body
        fields = _fields(self.body)
        fields["model"] = msgspec.Raw(msgspec.json.encode(name))
        if not self._usage_wanted:
            given = fields.get("stream_options")
            options = msgspec.json.decode(given) if given is not None else None
            fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**(options or {}), "include_usage": True}))
        return msgspec.json.encode(fields)

    def _read_json(self) -> None:
        try:
            head = _head(self.body)
        except msgspec.ValidationError as wrong:
            raise InvalidRequest(detail=f"The body is not valid: {wrong}.", remedy=_BODIES) from wrong
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
            raise InvalidRequest(detail=f"The body is not JSON: {wrong}.", remedy=_BODIES) from wrong
        self.model = head.model
        self.stream = bool(head.stream)
        if self.stream and self.operation in STREAM_OPTIONS:
            options = head.stream_options
            self._usage_wanted = bool(options and options.include_usage)

    def _read_form(self) -> None:
        found = _BOUNDARY.search(self.content_type)
        if found is None:
            raise InvalidRequest(detail="The form's content type names no boundary.", remedy=_BODIES)
        self.boundary = b"--" + found[1].encode("latin-1", "replace")
        parts = self._parts()
        fields = {name: self.body[start:end] for name, start, end in parts if name in (b"model", b"stream")}
        self._file = next(((start, end) for name, start, end in parts if name == b"file"), (0, 0))
        if b"model" not in fields:
            raise InvalidRequest(detail="The form has no field `model`.", remedy=_BODIES)
        self.model = fields[b"model"].decode(errors="replace").strip()
        self.stream = fields.get(b"stream", b"").strip().lower() in (b"true", b"1")

    def _parts(self) -> list[tuple[bytes, int, int]]:
        """The name of each part, and where its content begins and ends."""
        parts, delimiter = [], b"\r\n" + self.boundary
        at = 0 if self.body.startswith(self.boundary) else self.body.find(delimiter) + 2
        while at >= 0 and self.body.startswith(self.boundary, at):
            at += len(self.boundary)
            head_end = self.body.find(b"\r\n\r\n", at)
            end = self.body.find(delimiter, max(head_end, 0))
            if self.body.startswith(b"--", at) or head_end < 0 or end < 0:
                break
            if named := _DISPOSITION.search(self.body, at, head_end + 2):
                parts.append((named[1], head_end + 4, end))
            at = end + 2
        return parts

    def _form_for(self, name: str) -> bytes:
        written, last = [], 0
        for part, start, end in self._parts():
            if part == b"model":
                written += [self.body[last:start], name.encode()]
                last = end
        return b"".join([*written, self.body[last:]])


def _wav_seconds(body: bytes, start: int, end: int) -> float:
    """0 if these bytes are no WAV file. The data of a streamed one, whose header states no true size, end with it."""
    if end - start < 12 or body[start : start + 4] != b"RIFF" or body[start + 8 : start + 12] != b"WAVE":
        return 0.0
    at, rate = start + 12, 0
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            break
        name, size = body[at : at + 4], int.from_bytes(body[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            rate = int.from_bytes(body[at + 8 : at + 12], "little")
        elif name == b"data":
            return min(size or end, end - at) / rate if rate else 0.0
        at += size + size % 2
    return 0.0


async def read_body(receive: Receive, *, limit: int, stated: str) -> bytes:
    """The whole body. Raises BodyTooLarge, also before it is received if its stated length says so; ClientLeft."""
    if stated.isdecimal() and int(stated) > limit:
        raise BodyTooLarge(limit=format_size(limit))
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit=format_size(limit))
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)
