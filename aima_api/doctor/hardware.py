"""What the worker finds on this machine, as `aima doctor` tells it: accelerators, GPUs in containers, the clock.

Asked of the worker's own program, so that the doctor sees what the worker would; the API imports nothing of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from aima_api.doctor.finding import CheckStatus, Finding
from aima_core.domain.units import format_size

ANSWERS_WITHIN = timedelta(seconds=20)
WORKER = (sys.executable, "-m", "aima_worker", "--facts")
CLOCK_MAY_BE_OFF = 1.0
"""Seconds."""
TOOLKIT = "sudo apt-get install nvidia-container-toolkit && sudo nvidia-ctk runtime configure"
RESTART = "sudo systemctl restart docker"
CLOCK = "sudo timedatectl set-ntp true"


def what_the_worker_finds(program: Sequence[str] = WORKER) -> Iterator[Finding]:
    try:
        asked = subprocess.run(
            program, capture_output=True, encoding="utf-8", timeout=ANSWERS_WITHIN.total_seconds(), check=True
        )
        seen: dict[str, Any] = json.loads(asked.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as wrong:
        yield Finding("GPU", CheckStatus.WARNING, f"not looked at: {_reason(wrong)}", "aima worker")
        return
    yield from _accelerators(seen["hardware"])
    if seen["hardware"]["accelerators"] and seen["gives_gpus"] is not None:
        yield _in_containers(seen["gives_gpus"])
    if seen["clock_offset"] is not None:
        yield _clock(seen["clock_offset"])


def _accelerators(hardware: dict[str, Any]) -> Iterator[Finding]:
    if hardware["accelerators"]:
        counted = Counter(map(_described, hardware["accelerators"]))
        said = "; ".join(f"{count} × {name}" if count > 1 else name for name, count in counted.items())
        shared = f"; {format_size(hardware['memory'])} shared by CPU and GPU" if hardware["unified_memory"] else ""
        yield Finding("GPU", CheckStatus.OK, said + shared)
    elif hardware["trouble"] is None:
        yield Finding("GPU", CheckStatus.OK, "none of NVIDIA's: engines for the CPU only")
    if hardware["trouble"]:
        yield Finding("GPU", CheckStatus.FAILED, hardware["trouble"]["said"], hardware["trouble"]["mend"])


def _described(accelerator: dict[str, Any]) -> str:
    memory = [format_size(accelerator["memory"])] if accelerator["memory"] else []
    capability = [f"compute {accelerator['compute_capability']}"] if accelerator["compute_capability"] else []
    return f"{accelerator['name']} ({', '.join([accelerator['kind'], *memory, *capability])})"


def _in_containers(gives_gpus: bool) -> Finding:
    if gives_gpus:
        return Finding("GPU", CheckStatus.OK, "Docker gives GPUs to containers")
    return Finding("GPU", CheckStatus.FAILED, "Docker gives containers no GPUs", f"{TOOLKIT} && {RESTART}")


def _clock(offset: float) -> Finding:
    if abs(offset) <= CLOCK_MAY_BE_OFF:
        return Finding("clock", CheckStatus.OK, "agrees with Redis'")
    direction = "ahead of" if offset > 0 else "behind"
    return Finding("clock", CheckStatus.WARNING, f"{abs(offset):.1f} s {direction} Redis'", CLOCK)


def _reason(wrong: Exception) -> str:
    if isinstance(wrong, subprocess.CalledProcessError):
        return wrong.stderr.strip().rpartition("\n")[2] or str(wrong)
    return str(wrong)
