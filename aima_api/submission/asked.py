"""A start as it is asked for, of a service that is there or is to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aima_api.http.schemas import ServiceOptions
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.services import Service


class StartRequest(NamedTuple):
    id: ServiceId
    options: ServiceOptions
    hosts: Sequence[HostName] = ()
    """For this time, rather than those it was written down for."""
    replace: bool = False
    """Take down what runs first."""

    def wants_several(self, known: Service | None) -> bool:
        """Replicas, where `known` is what was written down; on hosts to be chosen, unless they are named."""
        return (self.options.replicas or (known.replicas if known else 1)) > 1
