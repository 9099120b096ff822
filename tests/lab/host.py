"""One host of a lab: a network namespace with a Docker Engine and a worker, and a cable to the other hosts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lab.cell import Cell
from lab.engine import EngineAt
from lab.network import Link, Network
from lab.parts import size_of
from lab.program import Program
from lab.running import AIMA
from lab.unpacked import Unpacked, engine_command

PORTS = "20000-20099"
_GPU_HOOK = "#!/bin/sh\nexec cat >/dev/null\n"
"""With this on its PATH, a Docker Engine accepts GPU requests, and containers start without a GPU."""


class HostPlan(NamedTuple):
    name: str
    """At most 15 letters, since its network interface has the same name."""
    facts: Mapping[str, Any] = {}
    """Override the facts that its worker detects, as AIMA_HOST__FACTS does."""
    gives_gpus: bool = False
    settings: Mapping[str, str] = {}
    """More `AIMA_…` variables of its worker."""
    system: Unpacked | None = None
    """Has its engine; None for this machine's own."""
    worker: Callable[[Cell], tuple[str, ...]] | None = None
    """Prepares the cell and returns the worker's command; None for this machine's own `aima worker`."""

    @property
    def arch(self) -> str | None:
        """The architecture of its images; None for the machine's own."""
        return self.facts.get("arch")


def a_gb10(name: str, *, facts: Mapping[str, Any] | None = None, **settings: str) -> HostPlan:
    """A simulated GB10: arm64 and its accelerator by facts alone, and a Docker Engine that accepts GPU requests."""
    gb10 = {
        "arch": "arm64",
        "memory": "128GB",
        "cores": 20,
        "unified_memory": True,
        "accelerators": [{"kind": "gb10", "name": "NVIDIA GB10"}],
    }
    return HostPlan(name, facts={**gb10, **(facts or {})}, gives_gpus=True, settings=settings)


def a_cpu_host(name: str, *, facts: Mapping[str, Any] | None = None, **settings: str) -> HostPlan:
    """A host like this machine, except for those facts."""
    return HostPlan(name, facts=facts or {}, settings=settings)


class HostEngine(EngineAt, Program):
    """A host's Docker Engine. Its containers survive its kill, until the cell ends."""

    def __init__(
        self, inside: Cell, link: Link, *, home: Path, log: Path, system: Unpacked | None, **options: str
    ) -> None:
        self._inside = inside
        self.socket = f"unix://{home}/docker.sock"
        """The address within the host; `address` is for the test."""
        EngineAt.__init__(self, f"unix://{inside.outside(home)}/docker.sock")
        command = link.inside(*engine_command(inside, home, _flags(home, options), system=system))
        self.path = f"{home}/bin:{os.environ['PATH']}"
        """The host's PATH, with the hook for GPUs."""
        Program.__init__(self, inside, *command, log=log, environment={"PATH": self.path})

    def log_size(self, container: str) -> int:
        """In bytes, of all its log files."""
        with self.client() as client:
            path = self._inside.outside(Path(client.api.inspect_container(container)["LogPath"]))
        return size_of(path.parent.glob(f"{path.name}*"))

    def containers(self, **labels: str) -> list[str]:
        """The names of its containers, running or not, with those labels (`installation` for `aima.installation`)."""
        wanted = [f"aima.{name}={value}" for name, value in labels.items()]
        with self.client() as client:
            return [
                name[1:]
                for each in client.api.containers(all=True, filters={"label": wanted})
                for name in each["Names"]
            ]


class LabHost:
    def __init__(self, plan: HostPlan, link: Link, *, engine: HostEngine, worker: Program, state: Path) -> None:
        self.name = plan.name
        self.plan = plan
        self.link = link
        self.engine = engine
        self.worker = worker
        self.state = state
        """The worker's state directory, in the test's file system."""

    @property
    def address(self) -> str:
        return self.link.address

    def make_whole(self) -> None:
        """Undoes every fault; returns at once without one."""
        self.link.mend()
        for program in (self.engine, self.worker):
            program.thaw()
            program.start()


def make_host(
    inside: Cell, net: Network, plan: HostPlan, *, logs: Path, worker: Mapping[str, str], **engine: str
) -> LabHost:
    """Creates a host and starts nothing. `engine` are options of dockerd, `worker` the environment of all workers."""
    link = net.connect(plan.name)
    home = Path("/run/hosts") / plan.name
    (inside.outside(home) / "bin").mkdir(parents=True)
    if plan.gives_gpus:
        hook = inside.outside(home) / "bin/nvidia-container-runtime-hook"
        hook.write_text(_GPU_HOOK)
        hook.chmod(0o755)
    docker = HostEngine(inside, link, home=home, log=logs / f"{plan.name}-engine.log", system=plan.system, **engine)
    environment = {
        **worker,
        "AIMA_HOST__NAME": plan.name,
        "AIMA_HOST__ADDRESS": link.address,
        "AIMA_HOST__PORTS": PORTS,
        "AIMA_HOST__FACTS": json.dumps(plan.facts),
        "AIMA_DOCKER__HOST": docker.socket,
        "AIMA_RUNTIME": "docker",
        "AIMA_STATE_DIR": f"{home}/state",
        "PATH": docker.path,
        **plan.settings,
    }
    command = link.inside(*(plan.worker(inside) if plan.worker else (str(AIMA), "worker")))
    return LabHost(
        plan,
        link,
        engine=docker,
        worker=Program(inside, *command, log=logs / f"{plan.name}-worker.log", environment=environment),
        state=inside.outside(home) / "state",
    )


def _flags(home: Path, options: Mapping[str, str]) -> dict[str, str]:
    return {
        "host": f"unix://{home}/docker.sock",
        "data-root": f"{home}/data",
        "exec-root": f"{home}/exec",
        "pidfile": f"{home}/docker.pid",
        "bip": "172.30.0.1/24",
        "exec-opt": "native.cgroupdriver=cgroupfs",
        "shutdown-timeout": "1",
        "max-download-attempts": "1",
        "log-level": "warn",
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
