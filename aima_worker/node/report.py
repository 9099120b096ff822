"""The machine report, as JSON by `python -m aima_worker --facts`: hardware, GPUs in containers, clock offset.

`aima doctor` reads it, since the API imports nothing of the worker. Read-only: it mints no identity.
"""

from __future__ import annotations

from datetime import timedelta

from aima_core.errors import BrokerUnavailable, DockerUnavailable
from aima_core.redis.connection import command_link
from aima_core.settings import Settings
from aima_worker.node.hardware import Hardware, hardware
from aima_worker.node.heartbeat import clock_offset
from aima_worker.runtime import FrozenModel
from aima_worker.runtime_selection import choose_runtime

DOCKER_TIMEOUT = timedelta(seconds=3)


class MachineReport(FrozenModel):
    hardware: Hardware
    gives_gpus: bool | None
    """Docker gives GPUs to containers; None if no Docker Engine answers."""
    clock_offset: float | None
    """Seconds by which this clock is ahead of Redis'; None if Redis does not answer."""


def inspect(settings: Settings) -> MachineReport:
    return MachineReport(
        hardware=hardware(settings), gives_gpus=_gives_gpus(settings), clock_offset=_clock_offset(settings)
    )


def _gives_gpus(settings: Settings) -> bool | None:
    impatient = settings.docker.model_copy(update={"timeout": DOCKER_TIMEOUT})
    try:
        return (
            choose_runtime(settings.model_copy(update={"runtime": "docker", "docker": impatient})).runtime.facts().gpus
        )
    except DockerUnavailable:
        return None


def _clock_offset(settings: Settings) -> float | None:
    try:
        return clock_offset(command_link(settings.redis.url.get_secret_value()))
    except BrokerUnavailable:
        return None
