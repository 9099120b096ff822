"""A host's record as a person reads it, in a listing and by itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aima_api.cli.tables import age
from aima_core.domain.units import format_size

CLOCK_MAY_BE_OFF = 1.0
"""Seconds."""
COLUMNS = {
    "HOST": "name",
    "STATE": "state",
    "ARCH": "arch",
    "ACCELERATORS": "accelerators",
    "CORES": "cores",
    "MEMORY": "memory",
    "RESERVE": "memory_reserve",
    "SLOTS": "slots",
    "DISK FREE": "disk_free",
    "RUNTIME": "runtime",
    "IMAGES": "images",
    "LABELS": "labels",
    "CLOCK": "clock_offset",
    "VERSION": "version",
    "SEEN": "seen",
}
ONLY_WHERE_TOLD = ("labels", "clock_offset")
"""Columns that most fleets leave empty."""
_TOLD_OTHERWISE = (
    "live",
    "left",
    "silent_for",
    "drained",
    "drained_since",
    "seen_at",
    "runtime_version",
    "runtime_answers",
    "container_runtimes",
    "unified_memory",
)
_DIGEST = len("sha256:") + 12
"""Characters of a digest that tell it from any other one on a host."""


def columns_for(hosts: list[dict[str, Any]]) -> dict[str, str]:
    """Of the rows in `hosts`, those worth a column."""
    empty = {field for field in ONLY_WHERE_TOLD if not any(host[field] for host in hosts)}
    return {heading: field for heading, field in COLUMNS.items() if field not in empty}


def row(host: dict[str, Any]) -> dict[str, Any]:
    """For a listing."""
    return {**record(host), "accelerators": _accelerators(host["accelerators"]), "images": len(host["images"])}


def record(host: dict[str, Any]) -> dict[str, Any]:
    """For itself, with every image."""
    first, last = host["ports"]
    return {
        **{name: value for name, value in host.items() if name not in _TOLD_OTHERWISE},
        "state": _state(host),
        "seen": age(host["seen_at"]),
        "accelerators": "\n".join(_accelerators(host["accelerators"])),
        "memory": format_size(host["memory"]) + (", shared by CPU and GPU" if host["unified_memory"] else ""),
        "memory_reserve": format_size(host["memory_reserve"]),
        "disk_free": format_size(host["disk_free"]),
        "runtime": _runtime(host),
        "images": "\n".join([str(len(host["images"])), *map(_image, host["images"])]),
        "ports": f"{first}-{last}",
        "clock_offset": _clock(host["clock_offset"]),
        "messages_dropped": host.get("messages_dropped") or None,
    }


def _state(host: dict[str, Any]) -> str:
    state = "live" if host["live"] else "away"
    since = host["drained_since"]
    return f"{state}, drained for {age(since)}" if since else state


def _accelerators(accelerators: list[dict[str, Any]]) -> list[str]:
    """Devices that are alike are one line, with their number."""
    counted = Counter(map(_accelerator, accelerators))
    return [f"{count} × {described}" if count > 1 else described for described, count in counted.items()]


def _accelerator(device: dict[str, Any]) -> str:
    memory = [format_size(device["memory"])] if device["memory"] else []
    capability = [f"compute {device['compute_capability']}"] if device["compute_capability"] else []
    return f"{device['name']} ({', '.join([device['kind'], *memory, *capability])})"


def _runtime(host: dict[str, Any]) -> str:
    runs_with = f" ({', '.join(host['container_runtimes'])})" if host["container_runtimes"] else ""
    answers = "" if host["runtime_answers"] else ", does not answer"
    return f"{host['runtime']} {host['runtime_version']}{runs_with}{answers}"


def _image(image: dict[str, Any]) -> str:
    reference: str = image["reference"]
    return f"{reference} ({image['digest'][:_DIGEST]})" if image["digest"] and "@" not in reference else reference


def _clock(offset: float) -> str | None:
    if abs(offset) <= CLOCK_MAY_BE_OFF:
        return None
    return f"{abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}"
