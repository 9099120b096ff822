"""AIMA as its user runs it: `aima up` and `aima` commands as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import docker
import pytest
from lab.parts import eventually, free_port

from aima_api.cli.main import run

ROOT = Path(__file__).parents[2]
AIMA = Path(sys.executable).with_name("aima")
UP_WITHIN = timedelta(seconds=90)
DOWN_WITHIN = 60


class Commands:
    """`aima` commands with an environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def aima(self, *words: str, within: float = 100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AIMA, *words], env=self.environment, capture_output=True, text=True, timeout=within, check=False
        )

    def here(self, *words: str) -> subprocess.CompletedProcess[str]:
        """As `aima`, in this process: of polls by processes, each takes 0.3 s of a core."""
        with (
            pytest.MonkeyPatch.context() as patched,
            redirect_stdout(StringIO()) as out,
            redirect_stderr(StringIO()) as err,
        ):
            for name, value in self.environment.items():
                patched.setenv(name, value)
            code = run(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [AIMA, *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def record(self, *words: str) -> Any:
        """The output of a command with `-o json`."""
        return json.loads(self.here(*words, "-o", "json").stdout)

    def has_a_live_host(self) -> bool:
        said = self.here("host", "list", "-o", "json")
        return said.returncode == 0 and any(host["live"] for host in json.loads(said.stdout))

    def instance(self, service: str) -> Any:
        (instance,) = self.record("service", "status", service)["instances"]
        return instance

    def clear(self) -> None:
        """Stops and removes every service."""
        for service in self.record("service", "list"):
            self.here("service", "stop", service["id"], "--wait")
            self.here("service", "remove", service["id"])


class Aima(Commands):
    """One `aima up` and its state."""

    def __init__(self, directory: Path, *, installation: str, runtime: str, **settings: str) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{free_port()}"
        self.gateway_url = f"http://127.0.0.1:{free_port()}"
        environment = {
            **os.environ,
            "AIMA_CONFIG": os.devnull,
            "AIMA_STATE_DIR": str(directory / "state"),
            "AIMA_API__PORT": self.url.rpartition(":")[2],
            "AIMA_GATEWAY__PORT": self.gateway_url.rpartition(":")[2],
            "AIMA_URL": self.url,
            "AIMA_INSTALLATION": installation,
            "AIMA_HOST__NAME": "alpha",
            "AIMA_HOST__PORTS": "19000-19199",
            "AIMA_RUNTIME": runtime,
            **settings,
        }
        super().__init__(environment)
        self._up: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        with (self.directory / "up.log").open("ab") as log:
            self._up = subprocess.Popen([AIMA, "up"], env=self.environment, stdout=log, stderr=log)
        assert eventually(self.has_a_live_host, within=UP_WITHIN), self.log()

    def down(self) -> int:
        """SIGINT, as Ctrl-C sends it; returns the exit code."""
        assert self._up is not None
        self._up.send_signal(signal.SIGINT)
        return self._up.wait(DOWN_WITHIN)

    @contextmanager
    def lone_worker(self, **settings: str) -> Iterator[None]:
        """The worker without `aima up`, with these settings."""
        key = (self.directory / "state/signing.key").read_text().strip()
        environment = {**self.environment, "AIMA_SIGNING_KEY": key, **settings}
        with (self.directory / "worker.log").open("ab") as log:
            worker = subprocess.Popen([sys.executable, "-m", "aima_worker"], env=environment, stdout=log, stderr=log)
        yield
        worker.kill()
        worker.wait()

    def containers(self) -> list[Any]:
        label = f"aima.installation={self.environment['AIMA_INSTALLATION']}"
        return list(docker.from_env().containers.list(all=True, filters={"label": label}, ignore_removed=True))

    def log(self) -> str:
        return (self.directory / "up.log").read_text()

    def end(self) -> None:
        if self._up is not None and self._up.poll() is None:
            self.clear()
            self.down()


def ask(endpoint: str, question: str) -> str:
    """A model's answer over the OpenAI API."""
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0}
    asked = Request(f"{endpoint}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urlopen(asked, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def engines(script: str, *words: str) -> None:
    """Runs a script of an engine: `build` or `install-native`."""
    subprocess.run([ROOT / "deploy/engines" / script, *words], check=True, capture_output=True, timeout=300)
