"""What a Docker Engine's words mean, whoever brought them: it has no codes for most of what it refuses."""

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
_LEAVING = "already in progress"
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


class EngineError(Exception):
    """The engine said no, in these words."""

    def __init__(self, words: str, *, status: int | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.status = status
        """Of HTTP, where it came that way."""


def pull_failure(words: str, *, image: str) -> AimaError:
    """A private repository and one that is not there are told alike: not found."""
    said = words.lower()
    for meaning, signs in _PULLS:
        if any(sign in said for sign in signs):
            return meaning(image=image, detail=words)
    return PullBroken(image=image, detail=words)


def start_failure(words: str, *, spec: ContainerSpec, host: str) -> AimaError:
    said = words.lower()
    if any(sign in said for sign in _PORT_TAKEN):
        return PortTaken(port=spec.host_port, host=host, holder="another container or program")
    if spec.gpus is not None and any(sign in said for sign in _NO_GPU):
        return GpuUnavailable(host=host, detail=words)
    return engine_refused(words)


def engine_refused(words: str) -> EngineRefused:
    return EngineRefused(runtime="Docker Engine", detail=words)


def is_being_removed(words: str) -> bool:
    """Whether a removal was refused only because another is under way."""
    return _LEAVING in words
