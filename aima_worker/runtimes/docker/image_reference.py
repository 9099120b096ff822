"""Image references as the engine wants them; the library's own parser gets `repository:tag@digest` wrong."""

from __future__ import annotations

from dataclasses import dataclass

from docker_image.digest import InvalidDigest
from docker_image.reference import InvalidReference, Reference


@dataclass(frozen=True)
class ImageName:
    registry: str
    """`docker.io` where none is named."""
    repository: str
    """As the engine writes it: `busybox`, not `docker.io/library/busybox`."""
    version: str
    """The digest where there is one, for it says more than a tag; else the tag, else `latest`."""


def image_name(image: str) -> ImageName:
    """Raises ValueError where `image` is no reference but an id, or nonsense."""
    try:
        reference = Reference.parse_normalized_named(image)
    except (InvalidReference, InvalidDigest) as bad:
        raise ValueError(str(bad)) from bad
    repository = Reference.parse_normalized_named(reference["name"])
    return ImageName(
        registry=repository.domain(),
        repository=repository.familiar_name(),
        version=reference["digest"] or reference["tag"] or "latest",
    )


def repository_of(image: str) -> str | None:
    """As the engine writes it; None for an id."""
    try:
        return image_name(image).repository
    except ValueError:
        return None
