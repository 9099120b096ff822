"""This host's facts and identity, as it announces them; and the machine report that `aima doctor` reads.

A snapshot at each call, apart from the hardware. A container engine that does not answer is reported, not raised. A
copied machine has the identity of the original and another session, so that Redis distinguishes the two.
"""

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import psutil

from aima_core.domain.hosts import HostFacts, ImageOnHost, device_ids
from aima_core.domain.ids import Route
from aima_core.domain.models import ModelDisk, ModelOnHost
from aima_core.domain.resources import HostCapacity
from aima_core.domain.wire import WIRE_VERSION
from aima_core.errors import BrokerUnavailable, DockerUnavailable, EngineRefused
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_core.system.state_dir import mint
from aima_core.trust.peers import host_key
from aima_worker.directories import may_examine_processes
from aima_worker.node.hardware import Hardware, hardware, memory_reserve
from aima_worker.runtime import ContainerRuntime, FrozenModel, RuntimeFacts
from aima_worker.runtime_selection import choose_runtime
from aima_worker.secrets import HostSecrets

MAX_IMAGES = 300
"""The newest ones are announced: every listing of hosts carries them."""
REPORT_TIMEOUT = timedelta(seconds=3)
"""How long the machine report waits for Docker."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def host_facts(
    settings: Settings,
    runtime: ContainerRuntime,
    *,
    clock_offset: float = 0.0,
    strangers: tuple[str, ...] = (),
    memory_low: int | None = None,
    disk_low: int | None = None,
    disk_reserve: int = 0,
    models: tuple[str, ...] | None = None,
    stored: tuple[ModelOnHost, ...] = (),
    model_disk: ModelDisk | None = None,
    fetch_rate: float | None = None,
) -> HostFacts:
    has, host, entries = hardware(settings), settings.host, HostSecrets(settings)
    engine, images, answers = _runtime_facts(runtime)
    kinds = dict.fromkeys([*(each.kind for each in has.accelerators), "cpu"])
    return HostFacts(
        name=host.name,
        identity=minted_identity(settings.state_dir.expanduser()),
        arch=has.arch,
        address=host.address,
        accelerators=has.accelerators,
        unified_memory=has.unified_memory,
        cores=has.cores,
        memory=has.memory,
        memory_reserve=memory_reserve(settings, has.memory, unified=has.unified_memory),
        slots=host.slots,
        disk_free=engine.disk_free or psutil.disk_usage("/").free,
        runtime=engine.kind,
        runtime_answers=answers,
        runtime_version=engine.version,
        container_runtimes=engine.container_runtimes,
        gives_gpus=engine.gpus,
        images=tuple(images[:MAX_IMAGES]),
        allows=host.images,
        ports=(host.ports[0], host.ports[-1]),
        routes=(Route.to_host(host.name), *(Route(f"{kind}.{has.arch}") for kind in kinds)),
        labels=host.labels,
        dataplane=settings.dataplane_url,
        site=host.site,
        key=host_key(settings).public,
        version=version("aima-engines"),
        wire=WIRE_VERSION,
        clock_offset=clock_offset,
        strangers=strangers,
        memory_low=memory_low,
        disk_low=disk_low,
        disk_reserve=disk_reserve,
        models=models,
        stored=stored,
        model_disk=model_disk,
        fetch_rate=fetch_rate,
        secrets=entries.names(),
        secrets_at=str(entries.directory),
        verifies_mounts=_verifies_mounts(engine),
        isolates_engines=engine.isolates_engines,
        separates_engines=engine.separates_engines,
    )


def _verifies_mounts(engine: RuntimeFacts) -> bool:
    """An engine of unknown disk is on another machine."""
    in_containers = engine.kind in ("docker", "docker-cli")
    return not in_containers or (engine.disk_free is not None and may_examine_processes())


def minted_identity(state_dir: Path) -> str:
    """Minted once: machine ids are cloned with images, names and addresses change."""
    return mint(state_dir / "identity", lambda: f"{uuid.uuid4()}\n")


def session_of(state_dir: Path) -> str:
    """Equal for every worker on this state directory, until the machine reboots."""
    minted_identity(state_dir)
    file = (state_dir / "identity").stat()
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
    return f"{boot}:{file.st_dev}:{file.st_ino}"


def _runtime_facts(runtime: ContainerRuntime) -> tuple[RuntimeFacts, list[ImageOnHost], bool]:
    """The container engine's facts and images, and whether it answers."""
    try:
        return runtime.facts(), runtime.images(), True
    except (DockerUnavailable, EngineRefused):
        return RuntimeFacts(kind="docker", version="unknown", gpus=False, disk_free=None), [], False


def capacity_of(facts: HostFacts, *, measured: bool) -> HostCapacity:
    """`measured`: the memory is this machine's, so that what the kernel has available counts, too."""
    memory = facts.memory - facts.memory_reserve
    left = available_memory() - facts.memory_reserve
    return HostCapacity(
        memory=memory,
        available=max(0, left) if measured else memory,
        gpus=device_ids(facts.accelerators),
        gpu_memory=tuple(gpu.memory for gpu in facts.accelerators),
        unified=facts.unified_memory,
        slots=facts.slots,
    )


def available_memory() -> int:
    """Bytes that the kernel can give without swapping; of CPU and GPU where they share memory."""
    return psutil.virtual_memory().available


def clock_offset(redis: TextRedis, *, now: Callable[[], float] = time.time) -> float:
    """Seconds by which this clock is ahead of Redis', within half the round trip. Raises BrokerUnavailable."""
    sent = now()
    seconds, microseconds = redis.time()
    return (sent + now()) / 2 - (seconds + microseconds / 1e6)


class MachineReport(FrozenModel):
    """What `python -m aima_worker --facts` prints as JSON, since the API imports nothing of the worker."""

    hardware: Hardware
    gives_gpus: bool | None = None
    """Docker gives GPUs to containers; None if no Docker Engine answers."""
    clock_offset: float | None = None
    """Seconds by which this clock is ahead of Redis'; None if Redis does not answer."""


def machine_report(settings: Settings) -> MachineReport:
    """Read-only: it mints no identity."""
    found: dict[str, object] = {"hardware": hardware(settings)}
    impatient = settings.docker.model_copy(update={"timeout": REPORT_TIMEOUT})
    with suppress(DockerUnavailable):
        docker = choose_runtime(settings.model_copy(update={"runtime": "docker", "docker": impatient})).runtime
        found["gives_gpus"] = docker.facts().gpus
    with suppress(BrokerUnavailable):
        found["clock_offset"] = clock_offset(command_link(settings.redis.url.get_secret_value()))
    return MachineReport.model_validate(found)
