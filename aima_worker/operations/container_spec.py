"""Builds the container spec of a service: the only way by which user input reaches a container.

The labels record the signed order and its command verbatim, the leased port and the GPUs, so that Redis' records can be
rebuilt from the containers after it has lost its data, and a container is restarted only as it was ordered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aima_core.domain.catalog import Engine
from aima_core.domain.fields import Scalar
from aima_core.domain.models import Manifest
from aima_core.domain.operations import StartService
from aima_core.domain.wire import WIRE_VERSION
from aima_core.errors import NoNativeSection
from aima_core.trust.orders import SignedOrder
from aima_worker.context import HostContext
from aima_worker.operations.model_paths import ModelDirectory
from aima_worker.runtime import INSTALLATION_LABEL, ContainerSpec, Mount

SERVICE_LABEL = "aima.service"
IMAGE_LABEL = "aima.image"
"""The image reference it was started from."""
PORT_LABEL = "aima.port"
"""The leased port."""
GPUS_LABEL = "aima.gpus"
"""The ids of the GPUs granted to it."""
ORDER_LABEL = "aima.order"
"""The order that created it, as it was signed."""
SIGNATURE_LABEL = "aima.signature"
"""That order's signature."""
SECRETS_LABEL = "aima.secrets"
"""The version of the copy of its secrets."""
WIRE_LABEL = "aima.wire"
"""The version of these labels."""
COMMAND_LABEL = "aima.command"
"""The order's start command, whose digest the order has, so that a restart needs no record."""


class Granted(NamedTuple):
    """What a container was created by: a signed order and its command, verbatim, and the GPUs granted to it."""

    order: SignedOrder
    command: str
    gpus: tuple[str, ...] = ()

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Granted:
        """Raises KeyError if one is missing."""
        order = SignedOrder(labels[ORDER_LABEL], labels[SIGNATURE_LABEL])
        return cls(order, labels[COMMAND_LABEL], tuple(labels[GPUS_LABEL].split(",")) if labels[GPUS_LABEL] else ())

    def labels(self) -> dict[str, str]:
        order = {ORDER_LABEL: self.order.text, SIGNATURE_LABEL: self.order.signature}
        return {**order, COMMAND_LABEL: self.command, GPUS_LABEL: ",".join(self.gpus)}


def container_spec(
    host: HostContext,
    command: StartService,
    *,
    image: str,
    directory: ModelDirectory | None,
    port: int,
    granted: Granted,
) -> ContainerSpec:
    """Its secrets are copied to where the engine will find them. Raises SecretMissing, SecretUnsafe."""
    engine = command.engine
    secrets = host.secrets.provide(host.container_name(command.service), command)
    program = _native_program(host, command, directory, port) if host.native else engine.command
    return ContainerSpec(
        name=host.container_name(command.service),
        image=image,
        entrypoint=() if host.native else engine.entrypoint,
        command=(*program, *rendered_arguments(engine.arguments), *command.names_arguments),
        environment=engine.environment,
        host_address=host.address_of(command),
        host_port=port,
        container_port=engine.port,
        mounts=_mounts(engine, directory),
        read_only=engine.filesystem == "read-only",
        tmpfs=engine.directories_in_memory,
        disk=engine.limits.disk,
        secrets=secrets,
        memory=engine.limits.memory,
        cores=engine.limits.cores,
        shared_memory=engine.limits.shared_memory,
        pids=engine.limits.pids,
        gpus=granted.gpus or engine.requires.gpus,
        network=host.settings.installation,
        install=engine.native.install if host.native and engine.native else None,
        labels={
            **ours(host),
            SERVICE_LABEL: command.service,
            "aima.engine": engine.name,
            IMAGE_LABEL: image,
            PORT_LABEL: str(port),
            WIRE_LABEL: str(WIRE_VERSION),
            **({SECRETS_LABEL: secrets.version} if secrets else {}),
            **granted.labels(),
        },
    )


def of_installation(host: HostContext) -> dict[str, str]:
    """The label that all containers of this installation carry, of every host."""
    return {INSTALLATION_LABEL: host.settings.installation}


def ours(host: HostContext) -> dict[str, str]:
    """The labels that all containers of this installation on this host carry."""
    return {**of_installation(host), "aima.host": host.name}


def model_of(labels: Mapping[str, str]) -> Manifest | None:
    """The manifest of a container's start command, if its engine mounts a model: it may have these files mounted.

    Raises ValidationError if this version cannot read the command.
    """
    started = StartService.model_validate_json(labels[COMMAND_LABEL]) if COMMAND_LABEL in labels else None
    return started.fetches if started and started.engine.model_mount else None


def rendered_arguments(arguments: dict[str, Scalar]) -> tuple[str, ...]:
    """`--name value`; true becomes `--name` alone, false nothing."""
    rendered: list[str] = []
    for name, value in arguments.items():
        if value is True:
            rendered.append(f"--{name}")
        elif value is not False:
            rendered += [f"--{name}", str(value)]
    return tuple(rendered)


def _mounts(engine: Engine, directory: ModelDirectory | None) -> tuple[Mount, ...]:
    if directory is None or engine.model_mount is None:
        return ()
    return (Mount(source=directory.path, target=engine.model_mount, identity=directory.identity),)


def _native_program(host: HostContext, command: StartService, directory: ModelDirectory | None, port: int) -> list[str]:
    engine = command.engine
    if engine.native is None:
        raise NoNativeSection(engine=engine.name, host=host.name)
    filled = {"{address}": host.address_of(command), "{port}": str(port), "{model}": str(directory or "")}
    return [filled.get(part, part) for part in engine.native.command]
