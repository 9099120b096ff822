"""Relays an event stream by whole events: counts them, reads and hides usage, renames the model, and knows its end.

Events pass as they are; only an event that reports usage is decoded. An incomplete event is held back, so that a broken
stream can be ended by an error event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

import msgspec

from aima_api.gateway.inference import ENDS, Inference
from aima_core.domain.units import format_size

MAX_EVENT = 16 << 20
"""Bytes of one event."""
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_EVENT = re.compile(rb".*?\n\r?\n", re.DOTALL)
_DATA = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')


class EventTooLarge(Exception):
    """An event exceeds MAX_EVENT."""

    def __init__(self) -> None:
        super().__init__(f"it sent an event larger than {format_size(MAX_EVENT)}")


@dataclass
class Usage:
    """Tokens of a request, as the engine counted them, or estimated by the events that arrived; and its audio."""

    input: int = 0
    output: int = 0
    estimated: bool = False
    audio_seconds: float = 0.0
    """Of a recording, as the engine states them."""


_NOT_STATED = msgspec.Raw()


class _Counted(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    seconds: msgspec.Raw = _NOT_STATED


class _Nested(msgspec.Struct):
    usage: _Counted | None = None


class _Reported(msgspec.Struct):
    """An answer or an event, as far as it reports usage."""

    choices: list[msgspec.Raw] | None = None
    usage: _Counted | None = None
    message: _Nested | msgspec.UnsetType | None = None
    response: _Nested | None = None
    duration: msgspec.Raw = _NOT_STATED
    """Of a recording, in seconds; some engines answer with a string."""


_decode = msgspec.json.Decoder(_Reported, strict=False).decode


def read_usage(answer: bytes, usage: Usage) -> bool:
    """Adds what an answer or event reports. Returns whether it reports usage and nothing else."""
    try:
        reported = _decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    nested = reported.message or reported.response
    counted = reported.usage or (nested.usage if isinstance(nested, _Nested) else None)
    usage.audio_seconds = max(usage.audio_seconds, _seconds(reported.duration))
    if counted is None:
        return False
    usage.audio_seconds = max(usage.audio_seconds, _seconds(counted.seconds))
    usage.input = max(usage.input, counted.prompt_tokens or counted.input_tokens or 0)
    usage.output = max(usage.output, counted.completion_tokens or counted.output_tokens or 0)
    return reported.choices == [] and reported.usage is not None


def _seconds(stated: msgspec.Raw) -> float:
    """0 unless it is a duration."""
    if stated is _NOT_STATED:
        return 0.0
    try:
        seconds = float(bytes(stated).strip(b'"'))
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < inf else 0.0


class ModelName:
    """Renames the model in an answer from the engine's name to the requested one."""

    def __init__(self, asked: str) -> None:
        self._asked = msgspec.json.encode(asked)
        self._engines: bytes | None = None
        self._old: tuple[bytes, bytes] = (b"", b"")

    def rename(self, block: bytes) -> bytes:
        if self._engines is None:
            if (found := _MODEL.search(block)) is None:
                return block
            self._engines = found[1]
        if self._engines == self._asked:
            return block
        return _MODEL.sub(self._renamed, block)

    def _renamed(self, found: re.Match[bytes]) -> bytes:
        whole = found[0]
        return whole[: -len(found[1])] + self._asked if found[1] == self._engines else whole


class EventRelay:
    """One stream of an engine; `feed` returns what the client gets."""

    __slots__ = ("_held", "_held_size", "_hides_usage", "_last", "_operation", "_rename", "_seam", "events", "usage")

    def __init__(self, operation: Inference, *, hides_usage: bool, rename: ModelName | None) -> None:
        self._operation = operation
        self._hides_usage = hides_usage
        self._rename = rename
        self._held: list[bytes] = []
        self._held_size = 0
        self._seam = b""
        """The last bytes held back, with which the next part may complete the end of an event."""
        self._last = b""
        self.events = 0
        self.usage = Usage()

    def feed(self, part: bytes) -> bytes:
        """The events that this part completes. Raises EventTooLarge."""
        if not part.endswith(b"\n\n") or self._held:
            part = self._whole_events(part)
            if not part:
                return part
        if b"data:" in part:
            self._last = part
            self.events += part.count(b"\ndata:") + part.startswith(b"data:")
            if b'"usage"' in part and _USAGE.search(part):
                part = self._without_usage(part)
            if self._rename is not None:
                part = self._rename.rename(part)
        return part

    @property
    def ended(self) -> bool:
        """Whether the last event ends a complete stream."""
        end = ENDS.get(self._operation)
        return end is None or bool(end.search(self._last))

    def _whole_events(self, part: bytes) -> bytes:
        """With the bytes held back before; holds back those after the last whole event."""
        joined = self._seam + part
        at, with_return = joined.rfind(b"\n\n"), joined.rfind(b"\n\r\n")
        cut = max(at + 2 if at >= 0 else 0, with_return + 3 if with_return >= 0 else 0)
        if not cut:
            self._hold(part)
            self._seam = joined[-3:]
            return b""
        whole = b"".join([*self._held, part])
        left = len(joined) - cut
        self._held, self._held_size, self._seam = [], 0, b""
        if left:
            self._hold(whole[-left:])
            self._seam = whole[-left:][-3:]
            return whole[:-left]
        return whole

    def _hold(self, part: bytes) -> None:
        self._held.append(part)
        self._held_size += len(part)
        if self._held_size > MAX_EVENT:
            raise EventTooLarge()

    def _without_usage(self, part: bytes) -> bytes:
        """Reads the usage; drops the event that only reports it from the stream of a client that did not ask."""
        kept = []
        for event in _EVENT.findall(part):
            data = b"\n".join(_DATA.findall(event))
            only_usage = read_usage(data, self.usage) if _USAGE.search(data) else False
            if not (only_usage and self._hides_usage):
                kept.append(event)
        return b"".join(kept)
