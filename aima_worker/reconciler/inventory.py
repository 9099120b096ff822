"""Inventory: the containers of this installation on this host, managed or unrecognized, as their labels say.

A container with our labels that this version cannot parse, whose labels have a newer version, or that no order of this
installation explains, is unrecognized: reported by name, and left alone.
Containers of another installation are not listed at all.
"""

import time
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.domain.operations import StartService
from aima_core.domain.wire import require_known_version
from aima_core.errors import AimaError, EngineUnhealthy, OrderRefused
from aima_core.trust.keys import KeyRing
from aima_core.trust.orders import Order, digest_of
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import (
    IMAGE_LABEL,
    PORT_LABEL,
    WIRE_LABEL,
    Granted,
    of_installation,
    ours,
)
from aima_worker.operations.readiness import check_health
from aima_worker.runtime import Container, Status


@dataclass(frozen=True)
class ManagedContainer:
    """A container, with the order, command, port and image that its labels record."""

    container: Container
    id: InstanceId
    order: Order
    command: StartService
    port: int
    image: str
    """Empty for a native process."""
    granted: Granted

    @property
    def service(self) -> ServiceId:
        return self.command.service

    @property
    def fence(self) -> int:
        return self.order.fence

    @property
    def running(self) -> bool:
        return self.container.status is Status.RUNNING

    @property
    def load_timeout(self) -> timedelta:
        check = self.command.engine.health_check
        return max(check.timeout, check.at_most or timedelta())

    def health_url(self, host: HostContext) -> str:
        return f"{host.endpoint(self.port)}{self.command.engine.health_check.path}"

    def healthy(self, host: HostContext) -> bool:
        return self.check_health(host) is None

    def check_health(self, host: HostContext) -> EngineUnhealthy | None:
        """Returns None if the health check succeeds, else the reason for an unhealthy instance."""
        url = self.health_url(host)
        problem = check_health(host, url)
        return EngineUnhealthy(url=url, problem=problem, service=self.service) if problem else None


class Inventory(NamedTuple):
    managed: dict[ServiceId, ManagedContainer]
    unrecognized: tuple[str, ...]


def scan(host: HostContext) -> Inventory:
    """Raises DockerUnavailable."""
    listed = host.runtime.containers(of_installation(host))
    parsed = [(container.name, recognize(host, container)) for container in listed]
    return Inventory(
        {managed.service: managed for _, managed in parsed if managed},
        tuple(sorted(name for name, managed in parsed if managed is None)),
    )


def recognize(host: HostContext, container: Container) -> ManagedContainer | None:
    """None if the labels are malformed, of a newer version, another host's, or not what an order said.

    A key that was retired since still verifies them: a rotation of keys must not orphan what runs.
    """
    labels = container.labels
    try:
        require_known_version(int(labels.get(WIRE_LABEL, "1")))
        port, image, granted = int(labels[PORT_LABEL]), labels.get(IMAGE_LABEL, ""), Granted.from_labels(labels)
        order, command = _ordered_start(granted, host.keys)
    except (KeyError, ValueError, AimaError):
        return None
    if not ours(host).items() <= labels.items() or container.name != host.container_name(command.service):
        return None
    if image and image not in order.images:
        return None
    return ManagedContainer(container, command.service.on(host.name), order, command, port, image, granted)


@lru_cache(maxsize=256)
def _ordered_start(granted: Granted, keys: KeyRing) -> tuple[Order, StartService]:
    """Raises AimaError, ValueError. Cached, since every pass reads the same labels."""
    order = Order.read(granted.order, keys, executed=True)
    if order.command != digest_of(granted.command):
        raise OrderRefused(detail="its command is another one.")
    command = StartService.model_validate_json(granted.command)
    order.check_command(command)
    return order, command


class ConditionTimer:
    """Debounces conditions that a race can show for a moment, like the `for:` of a Prometheus alert."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}
        self._seen: set[Hashable] = set()

    def next_pass(self) -> None:
        """Forgets the conditions that the previous pass did not see."""
        self._since = {condition: since for condition, since in self._since.items() if condition in self._seen}
        self._seen = set()

    def held_for(self, condition: Hashable) -> timedelta:
        """For how long every pass has seen the condition; zero the first time."""
        now = time.monotonic()
        self._seen.add(condition)
        return timedelta(seconds=now - self._since.setdefault(condition, now))
