"""What this host has, as it announces it: read anew at each call, except its minted identity."""

from __future__ import annotations

import platform
import uuid
from importlib.metadata import version
from pathlib import Path

import psutil

from aima_core.catalog import Arch
from aima_core.failures import BadSettings, DockerUnavailable
from aima_core.ids import HostName, Route
from aima_core.services import HostFacts
from aima_core.settings import Settings
from aima_worker.runtime import ContainerRuntime, RuntimeFacts

_ARCHES: dict[str, Arch] = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def arch() -> Arch:
    """This machine's, in the words of container images. Raises BadSettings on one that AIMA does not know."""
    machine = platform.machine().lower()
    if machine not in _ARCHES:
        raise BadSettings(
            detail=f"AIMA does not know the architecture {machine}.", where="nothing; use another machine"
        )
    return _ARCHES[machine]


def routes(name: HostName) -> tuple[Route, ...]:
    """The queues this host takes starts and pulls from."""
    return Route.to_host(name), Route(f"cpu.{arch()}")


def host_facts(settings: Settings, runtime: ContainerRuntime) -> HostFacts:
    told, answers = _runtime_facts(runtime)
    ports = settings.host.ports
    return HostFacts(
        name=settings.host.name,
        identity=minted_identity(settings.state_dir.expanduser()),
        arch=arch(),
        address=settings.host.address,
        cores=psutil.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        disk_free=told.disk_free or psutil.disk_usage("/").free,
        runtime=told.kind,
        runtime_answers=answers,
        runtime_version=told.version,
        ports=(ports[0], ports[-1]),
        routes=routes(settings.host.name),
        labels=settings.host.labels,
        version=version("aima"),
    )


def minted_identity(state_dir: Path) -> str:
    """This host's own, made once: machine ids come alike from the factory, and names and addresses change."""
    file = state_dir / "identity"
    if not file.exists():
        state_dir.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{uuid.uuid4()}\n")
        fresh.rename(file)
    return file.read_text().strip()


def _runtime_facts(runtime: ContainerRuntime) -> tuple[RuntimeFacts, bool]:
    """And whether it answers."""
    try:
        return runtime.facts(), True
    except DockerUnavailable:
        return RuntimeFacts(kind="docker", version="unknown", gpus=False, disk_free=None), False
