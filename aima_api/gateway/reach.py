"""The way to an instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aima_core.domain.services import Instance


@dataclass(frozen=True)
class Direct:
    """The address that the instance's worker reports."""

    url: str

    def headers(self) -> Mapping[str, str]:
        return {}


def target_of(instance: Instance) -> Direct | None:
    return Direct(instance.endpoint) if instance.endpoint else None
