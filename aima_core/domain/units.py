"""Quantities as people read and write them: durations such as `90s` and `1h30m`, sizes such as `25GB`, devices.

Signatures use `timedelta` and `ByteSize`; a bare number in YAML or settings is refused, since it has no unit.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, ByteSize, PlainSerializer, WithJsonSchema

CLOCK_TOLERANCE = timedelta(seconds=1)
"""A clock that differs from Redis' by more is reported."""
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_PART = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|[dhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern}){{1,5}}")
_SIZE = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,6})? ?(?:[kmgtp]i?)?b", re.IGNORECASE)


def parse_duration(value: object) -> timedelta:
    """`1h30m` as a timedelta. Raises ValueError with an example."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not _WHOLE.fullmatch(value):
        raise ValueError(f"{value!r} is not a duration; write a number and its unit, such as `30s`, `5m` or `1h30m`")
    return sum((float(number) * _UNITS[unit] for number, unit in _PART.findall(value)), timedelta())


def format_duration(duration: timedelta) -> str:
    """The shortest text that parses back to the same duration, to the millisecond."""
    left = round(duration / _UNITS["ms"]) * _UNITS["ms"]
    parts = []
    for unit, length in _UNITS.items():
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _size(value: object) -> object:
    if isinstance(value, ByteSize) or (isinstance(value, str) and _SIZE.fullmatch(value)):
        return value
    raise ValueError(f"{value!r} is not a size; write a number and its unit, such as `500MB` or `25GB`")


def format_size(size: float) -> str:
    """`24.7 GB`: three digits and a decimal unit, as disks and registries count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def exact_size(size: int) -> str:
    """The shortest text that parses back to the same size: `8GB`, `4GiB`."""
    units = [(1000**power, unit) for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))]
    units += [(1024**power, unit) for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), 1)]
    return min((f"{size // length}{unit}" for length, unit in units if size % length == 0), key=len)


def describe_accelerators(accelerators: Sequence[Mapping[str, Any]]) -> list[str]:
    """Equal devices share a line, with their number: `2 × NVIDIA L4 (cuda, 24 GB, compute 8.9)`."""
    counts = Counter(map(_accelerator, accelerators))
    return [f"{count} × {described}" if count > 1 else described for described, count in counts.items()]


def _accelerator(device: Mapping[str, Any]) -> str:
    memory = [format_size(device["memory"])] if device["memory"] else []
    capability = [f"compute {device['compute_capability']}"] if device["compute_capability"] else []
    return f"{device['name']} ({', '.join([device['kind'], *memory, *capability])})"


def counted(number: int, thing: str) -> str:
    """`1 core`, `8 cores`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["30s", "5m", "1h30m"]}),
]
Size = Annotated[
    ByteSize,
    BeforeValidator(_size),
    PlainSerializer(lambda size: f"{int(size)}B", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["500MB", "25GB"]}),
]
