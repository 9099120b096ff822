"""An API node and a worker in separate processes, on a private Redis: each can be killed alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
from lab.commands import SIGNING_KEY
from lab.engine import finish_loading
from lab.forked import Process, launch
from lab.parts import eventually, free_port, own_ports
from lab.running import Commands

from aima_core.domain.ids import OperationId

UP_WITHIN = timedelta(seconds=90)
ENDS_WITHIN = 60
"""Seconds, for a worker that first starts a cold interpreter."""
LOADS = ("--set", "load-seconds=50", "--health", "timeout=1m")
"""Options of a start that loads until `finish_loading`."""
PORTS = own_ports(18800)
_DIES_BEFORE_STARTING_A_CONTAINER = """
import os, signal, sys
from docker import APIClient
APIClient.start = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from aima_worker.__main__ import main
sys.exit(main())
"""


class SeparateProcesses(Commands):
    """The `aima` command with its environment."""

    def __init__(self, directory: Path, redis_url: str, *, installation: str) -> None:
        port = free_port()
        self._installation = installation
        self._logs = directory
        self._parts: dict[str, Process] = {}
        super().__init__(
            {
                **os.environ,
                "AIMA_CONFIG": os.devnull,
                "AIMA_STATE_DIR": str(directory / "state"),
                "AIMA_API__PORT": str(port),
                "AIMA_URL": f"http://127.0.0.1:{port}",
                "AIMA_REDIS__URL": redis_url,
                "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
                "AIMA_INSTALLATION": installation,
                "AIMA_HOST__NAME": "alpha",
                "AIMA_HOST__PORTS": f"{PORTS[0]}-{PORTS[-1]}",
                "AIMA_RUNTIME": "docker",
            }
        )

    def up(self) -> None:
        self._begin("api", "aima_api")
        self.start_worker()
        assert eventually(self.has_a_live_host, within=UP_WITHIN), self.log("worker") + self.log("api")

    def start_worker(self) -> None:
        self._begin("worker", "aima_worker")

    def start_a_worker_that_is_killed_before_it_starts_a_container(self) -> None:
        with self._log_of("worker").open("ab") as log:
            words = [sys.executable, "-c", _DIES_BEFORE_STARTING_A_CONTAINER]
            self._parts["worker"] = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)

    def kill_worker(self) -> None:
        self._parts["worker"].kill()
        self._parts["worker"].wait()

    def tell_worker(self, *signals: signal.Signals) -> None:
        for each in signals:
            self._parts["worker"].send_signal(each)

    def until_worker_ends(self) -> int:
        return self._parts["worker"].wait(ENDS_WITHIN)

    def end(self) -> None:
        for part in self._parts.values():
            part.kill()
            part.wait()
        for container in self.containers():
            container.remove(force=True)

    def submit(self, *words: str) -> OperationId:
        """The id of the operation that a command submits."""
        (operation,) = json.loads(self.here(*words, "--no-wait", "-o", "json").stdout)
        return OperationId(operation["id"])

    def operation(self, id: OperationId) -> Any:
        return self.record("operation", "show", id)

    def containers(self) -> list[Any]:
        """All containers of this installation, running or not."""
        label = f"aima.installation={self._installation}"
        return list(docker.from_env().containers.list(all=True, filters={"label": label}, ignore_removed=True))

    def processes(self) -> list[tuple[str, int, str]]:
        """The id, process id and start time of each container."""
        found = [container.attrs for container in self.containers()]
        return [(each["Id"], each["State"]["Pid"], each["State"]["StartedAt"]) for each in found]

    def finish_loading(self) -> None:
        """Ends the loading of the only engine."""
        (container,) = self.containers()
        with closing(docker.from_env()) as client:
            finish_loading(client, container.name)

    def log(self, part: str) -> str:
        return self._log_of(part).read_text(errors="replace")

    def _begin(self, part: str, program: str) -> None:
        with self._log_of(part).open("ab") as log:
            self._parts[part] = launch(program, env=self.environment, stdout=log, stderr=log)

    def _log_of(self, part: str) -> Path:
        return self._logs / f"{part}.log"
