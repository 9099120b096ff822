"""The version of the wire: of orders, host facts and container labels, as API nodes and workers exchange them.

A new optional field keeps the version, since readers ignore unknown fields; only orders refuse them, since a field of
an order may be a limit. It is raised where an older reader would act wrongly: a worker refuses an order of a newer
version, and leaves a container with newer labels alone.
"""

from typing import Final

from aima_core.errors import NewerVersion

WIRE_VERSION: Final = 1
"""Readers also know every version below it."""


def require_known_version(version: int) -> None:
    """Raises NewerVersion if the sender's version is newer than the reader's."""
    if version > WIRE_VERSION:
        raise NewerVersion(version=version, known=WIRE_VERSION)
