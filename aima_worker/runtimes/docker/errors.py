"""Translates a Docker Engine's error messages: it has no codes for most refusals, so their words are matched.

An unknown message becomes EngineRefused, or PullBroken, which is retried.
"""

from __future__ import annotations

from aima_core.errors import (
    AimaError,
    DiskFull,
    EngineRefused,
    GpuUnavailable,
    ImageNotFound,
    PortTaken,
    PullBroken,
    RegistryDenied,
)
from aima_worker.runtime import ContainerSpec

_PORT_TAKEN = ("port is already allocated", "address already in use")
_NO_GPU = ("could not select device driver", "nvidia-container-cli", "unresolvable cdi devices", "no known gpu")
_PULLS: tuple[tuple[type[AimaError], tuple[str, ...]], ...] = (
    (DiskFull, ("no space left on device", "disk quota exceeded", "not enough space")),
    (
        ImageNotFound,
        (
            "manifest unknown",
            "name unknown",
            "repository name not known",
            "does not exist",
            "not found",
            "no matching manifest",
            "no such image",
            "invalid reference format",
        ),
    ),
    (RegistryDenied, ("denied", "unauthorized", "no basic auth", "forbidden", "authentication required")),
)


def pull_failure(words: str, *, image: str) -> AimaError:
    """Registries report a private repository and a missing one alike: as not found."""
    message = words.lower()
    for meaning, signs in _PULLS:
        if any(sign in message for sign in signs):
            return meaning(image=image, detail=words)
    return PullBroken(image=image, detail=words)


def start_failure(words: str, *, spec: ContainerSpec, host: str) -> AimaError:
    message = words.lower()
    if any(sign in message for sign in _PORT_TAKEN):
        return PortTaken(port=spec.host_port, host=host, holder="another container or program")
    if spec.gpus is not None and any(sign in message for sign in _NO_GPU):
        return GpuUnavailable(host=host, detail=words)
    return engine_refused(words)


def engine_refused(words: str, *, status: int | None = None) -> EngineRefused:
    """With the HTTP status among its facts, for callers that decide on it."""
    return EngineRefused(runtime="Docker Engine", detail=words, status=status)
