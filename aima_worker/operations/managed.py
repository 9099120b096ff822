"""Managed containers: containers with a verified order of this installation in their labels.

The labels suffice to run the container again as it was, and to restore its port lease and allocation.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import structlog
from pydantic import ValidationError

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.domain.operations import StartService
from aima_core.domain.resources import Allocation, host_memory_of
from aima_core.domain.services import Instance, InstanceState, Service
from aima_core.domain.wire import require_known_version
from aima_core.errors import AimaError, EngineUnhealthy, OrderRefused
from aima_core.trust.keys import KeyRing
from aima_core.trust.orders import Order, digest_of, highest_fence
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import IMAGE_LABEL, PORT_LABEL, WIRE_LABEL, Granted, container_spec, ours
from aima_worker.operations.model_paths import model_directory
from aima_worker.operations.readiness import check_health
from aima_worker.runtime import Container, ContainerSpec, Status

_log = structlog.get_logger()


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
        return f"{host.endpoint(self.command, self.port)}{self.command.engine.health_check.path}"

    def healthy(self, host: HostContext) -> bool:
        return self.check_health(host) is None

    def check_health(self, host: HostContext) -> EngineUnhealthy | None:
        """Returns None if the health check succeeds, else the reason for an unhealthy instance."""
        url = self.health_url(host)
        problem = check_health(host, url)
        return EngineUnhealthy(url=url, problem=problem, service=self.service) if problem else None


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


def spec_as_it_was(host: HostContext, managed: ManagedContainer) -> ContainerSpec:
    command, directory = managed.command, model_directory(host, managed.command)
    return container_spec(
        host, command, image=managed.image, directory=directory, port=managed.port, granted=managed.granted
    )


def restore_resources(host: HostContext, managed: ManagedContainer, instance: Instance | None) -> None:
    """Records the container's port lease, allocation and address: the container is the ground truth."""
    fence, loading = fence_of(managed, instance), instance is not None and instance.state is InstanceState.STARTING
    if not host.ports.persist(managed.id, managed.port, fence=fence):
        _log.warning("port of a container leased by another instance", instance=managed.id, port=managed.port)
    memory = host_memory_of(managed.command.needs, unified=host.capacity().unified)
    allocation = Allocation(memory=memory, gpus=managed.granted.gpus, loading=loading, fence=fence)
    host.allocations.keep(host.name, managed.service, allocation)
    host.addresses.put(managed.id, host.address_of(managed.command), managed.port, fence=fence)


def fence_of(managed: ManagedContainer, instance: Instance | None) -> int:
    """A start that found its container running as specified adopted it, with the labels of the earlier start."""
    known = instance.fence if instance else 0
    return max(managed.fence, known if known <= highest_fence() else 0)


def revision_of(command: StartService) -> int | None:
    """Of the spec that the command carries; None if it has none."""
    if command.spec is None:
        return None
    with suppress(ValidationError):
        return Service.model_validate_json(command.spec.text).revision
    return None
