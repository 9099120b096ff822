"""From engine, model, host and port to what a runtime shall run: pure, and all that user input can reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aima_core.domain.catalog import Engine, Scalar
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import StartService
from aima_core.errors import NoNativeSection
from aima_core.store.claims import Claimed
from aima_worker.context import HostContext
from aima_worker.runtime import ContainerSpec, Mount

IMAGE_LABEL = "aima.image"
"""The reference it was started from."""
PORT_LABEL = "aima.port"
"""The leased port."""
OPERATION_LABEL = "aima.operation"
"""The operation that made it."""
FENCE_LABEL = "aima.fence"
"""That operation's fence."""
GPUS_LABEL = "aima.gpus"
"""The ids of the GPUs that it was given."""
COMMAND_LABEL = "aima.command"
"""The whole command that it was started by, so that it can be run again when nothing else is left."""


class Granted(NamedTuple):
    """By which operation a container is there, and with which GPUs."""

    operation: OperationId | None
    """None of a container that was made before labels told it."""
    fence: int
    gpus: tuple[str, ...]

    @classmethod
    def by(cls, claimed: Claimed) -> Granted:
        return cls(claimed.operation.id, claimed.operation.fence, claimed.gpus)

    @classmethod
    def told_by(cls, labels: Mapping[str, str]) -> Granted:
        """Raises BadId, ValueError where they make no sense."""
        operation, gpus = labels.get(OPERATION_LABEL), labels.get(GPUS_LABEL)
        return cls(
            OperationId(operation) if operation else None,
            int(labels.get(FENCE_LABEL, "0")),
            tuple(gpus.split(",")) if gpus else (),
        )

    def labels(self) -> dict[str, str]:
        return {OPERATION_LABEL: self.operation or "", FENCE_LABEL: str(self.fence), GPUS_LABEL: ",".join(self.gpus)}


def container_spec(
    host: HostContext, command: StartService, *, image: str, directory: str | None, port: int, granted: Granted
) -> ContainerSpec:
    """What to run on this host. The labels, together with the container itself, are enough to rebuild every record."""
    engine = command.engine
    return ContainerSpec(
        name=host.container_name(command.service),
        image=image,
        command=_native_command(host, engine, directory, port) if host.native else _command(engine),
        environment=engine.environment,
        host_address=host.settings.host.address,
        host_port=port,
        container_port=engine.port,
        mounts=_mounts(engine, directory),
        memory=engine.limits.memory,
        cores=engine.limits.cores,
        shared_memory=engine.limits.shared_memory,
        pids=engine.limits.pids,
        gpus=granted.gpus or engine.requires.gpus,
        install=engine.native.install if host.native and engine.native else None,
        labels=_labels(host, command, image, port) | granted.labels(),
    )


def of_installation(host: HostContext) -> dict[str, str]:
    """The labels that all containers of this installation carry, whichever host's they are."""
    return {"aima.installation": host.settings.installation}


def ours(host: HostContext) -> dict[str, str]:
    """The labels that all containers of this installation on this host carry."""
    return {**of_installation(host), "aima.host": host.name}


def rendered_arguments(arguments: dict[str, Scalar]) -> tuple[str, ...]:
    """`--name value`; true gives the bare `--name`, false nothing."""
    rendered: list[str] = []
    for name, value in arguments.items():
        if value is True:
            rendered.append(f"--{name}")
        elif value is not False:
            rendered += [f"--{name}", str(value)]
    return tuple(rendered)


def _command(engine: Engine) -> tuple[str, ...]:
    return (*engine.command, *rendered_arguments(engine.arguments))


def _native_command(host: HostContext, engine: Engine, directory: str | None, port: int) -> tuple[str, ...]:
    if engine.native is None:
        raise NoNativeSection(engine=engine.name, host=host.name)
    filled = {"{address}": host.settings.host.address, "{port}": str(port), "{model}": directory or ""}
    command = (filled.get(part, part) for part in engine.native.command)
    return (*command, *rendered_arguments(engine.arguments))


def _mounts(engine: Engine, directory: str | None) -> tuple[Mount, ...]:
    if engine.model_mount is None or directory is None:
        return ()
    return (Mount(source=directory, target=engine.model_mount),)


def _labels(host: HostContext, command: StartService, image: str, port: int) -> dict[str, str]:
    return {
        **ours(host),
        "aima.service": command.service,
        "aima.engine": command.engine.name,
        IMAGE_LABEL: image,
        PORT_LABEL: str(port),
        COMMAND_LABEL: command.model_dump_json(exclude_defaults=True),
    }
