"""From what AIMA asks the engine to make, to the `docker create` that asks for the same. Pure.

The template says what a container gets; here each of its fields has its flag, and one without a flag is an error
rather than left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def create_arguments(config: Mapping[str, Any], *, name: str) -> list[str]:
    """The program's arguments, given the body of `POST /containers/create`."""
    flags = [*_flags(config, _CONFIG), *_flags(config["HostConfig"], _HOST_CONFIG)]
    # What is not on the host is not fetched on the quiet: pulls are seen.
    return ["create", "--pull", "never", "--name", name, *flags, "--", config["Image"], *config["Cmd"]]


def _flags(fields: Mapping[str, Any], flags: Mapping[str, Callable[[Any], Iterator[str]]]) -> Iterator[str]:
    for field, value in fields.items():
        yield from flags[field](value)


def _one(flag: str) -> Callable[[Any], Iterator[str]]:
    def of(value: Any) -> Iterator[str]:
        yield f"--{flag}={value}"

    return of


def _each(flag: str) -> Callable[[Any], Iterator[str]]:
    def of(values: Any) -> Iterator[str]:
        pairs = values.items() if isinstance(values, Mapping) else None
        for value in values if pairs is None else (f"{key}={value}" for key, value in pairs):
            yield f"--{flag}={value}"

    return of


def _said_elsewhere(_: Any) -> Iterator[str]:
    yield from ()


def _init(wanted: bool) -> Iterator[str]:
    yield f"--init={'true' if wanted else 'false'}"


def _cores(nano: int) -> Iterator[str]:
    yield f"--cpus={nano / 1e9:.9f}"


def _restart(policy: Mapping[str, str]) -> Iterator[str]:
    yield f"--restart={policy['Name']}"


def _log(config: Mapping[str, Any]) -> Iterator[str]:
    yield f"--log-driver={config['Type']}"
    yield from _each("log-opt")(config["Config"])


def _mounts(mounts: list[Mapping[str, Any]]) -> Iterator[str]:
    for mount in mounts:
        reading = ["readonly"] if mount["ReadOnly"] else []
        fields = [f"type={mount['Type']}", f"source={mount['Source']}", f"target={mount['Target']}", *reading]
        yield f"--mount={_comma_separated(fields)}"


def _ports(bindings: Mapping[str, list[Mapping[str, str]]]) -> Iterator[str]:
    for inside, outsides in bindings.items():
        for outside in outsides:
            address = f"[{outside['HostIp']}]" if ":" in outside["HostIp"] else outside["HostIp"]
            yield f"--publish={address}:{outside['HostPort']}:{inside}"


def _gpus(requests: list[Mapping[str, Any]]) -> Iterator[str]:
    for request in requests:
        if ids := request.get("DeviceIDs"):
            yield f"--gpus={_comma_separated(['device=' + ','.join(ids)])}"
        else:
            yield f"--gpus={'all' if request['Count'] == -1 else request['Count']}"


def _comma_separated(fields: list[str]) -> str:
    """With quotes where a field has commas or quotes itself, as the program reads it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


_CONFIG: dict[str, Callable[[Any], Iterator[str]]] = {
    "Image": _said_elsewhere,  # an argument
    "Cmd": _said_elsewhere,
    "HostConfig": _said_elsewhere,
    "ExposedPorts": _said_elsewhere,  # whatever is published is exposed
    "Env": _each("env"),
    "Labels": _each("label"),
}
_HOST_CONFIG: dict[str, Callable[[Any], Iterator[str]]] = {
    "PidsLimit": _one("pids-limit"),
    "Memory": _one("memory"),
    "MemorySwap": _one("memory-swap"),
    "NanoCpus": _cores,
    "ShmSize": _one("shm-size"),
    "CapDrop": _each("cap-drop"),
    "SecurityOpt": _each("security-opt"),
    "Init": _init,
    "RestartPolicy": _restart,
    "LogConfig": _log,
    "Mounts": _mounts,
    "PortBindings": _ports,
    "DeviceRequests": _gpus,
}
