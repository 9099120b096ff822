"""The `docker` program: how it is called, and what its complaints mean. Always a list of arguments, never a shell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from datetime import timedelta

from aima_core.domain.units import format_duration
from aima_core.errors import DockerUnavailable
from aima_core.system.die_with_parent import dying_with_parent
from aima_worker.runtimes.docker.errors import EngineError

_ENGINE_SAYS = "Error response from daemon: "
_ENGINE_SPOKE = (_ENGINE_SAYS, "error from daemon in stream")
_CHATTER = ("Error: failed to start containers", "See 'docker ", "Run 'docker ")
_AWAY = (
    "cannot connect to the docker daemon",
    "failed to connect to the docker api",
    "error during connect",
    "permission denied while trying to connect",
    "unable to resolve docker endpoint",
)
_BROKEN_OFF = ("unexpected eof", "connection reset by peer", "use of closed network connection")


class DockerProgram:
    """Speaks to the engine at `address`; with None, to whichever the program's own context or DOCKER_HOST names."""

    def __init__(self, address: str | None, *, host: str, timeout: timedelta) -> None:
        self.timeout = timeout
        """For one call."""
        self._address = address
        self._host = host

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_CLI_HINTS": "false"}

    def ask(self, *arguments: str, longer: timedelta = timedelta()) -> str:
        """What it prints. Raises Refusal or DockerUnavailable."""
        said = self.answer(*arguments, longer=longer)
        if said.returncode:
            raise self.failure(said.stderr)
        return said.stdout

    def answer(self, *arguments: str, longer: timedelta = timedelta()) -> subprocess.CompletedProcess[str]:
        """What it prints and how it ends; given up after the timeout and `longer`. Raises DockerUnavailable."""
        within = self.timeout + longer
        try:
            return subprocess.run(
                self._command(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=within.total_seconds(),
                env=self.environment,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise self.unavailable(f"`docker {arguments[0]}` did not end within {format_duration(within)}") from late
        except OSError as broken:
            raise self.unavailable(broken) from broken

    def leashed(self, *arguments: str) -> list[str]:
        """The command of a program that may run for long: it dies with the thread that starts it."""
        return [*dying_with_parent(signal.SIGKILL), *self._command(*arguments)]

    def engine_is_here(self) -> bool:
        """Whether the engine's files are this machine's, as far as its address tells."""
        address = self._address or self.ask("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        return address.startswith("unix://")

    def check(self) -> None:
        """Raises DockerUnavailable where no engine answers."""
        said = self.answer("version", "--format", "{{.Server.Version}}")
        if said.returncode:
            raise self.unavailable(words_of(said.stderr))

    def failure(self, complaint: str) -> EngineError | DockerUnavailable:
        """What its complaint on stderr means: either the engine has spoken, or it could not be reached."""
        words = words_of(complaint)
        away = broke_off(complaint) or any(sign in complaint.lower() for sign in _AWAY)
        return self.unavailable(words) if away and not _engine_spoke(complaint) else EngineError(words)

    def unavailable(self, why: object) -> DockerUnavailable:
        return DockerUnavailable(host=self._host, detail=f"{self._address}: {why}" if self._address else str(why))

    def _command(self, *arguments: str) -> list[str]:
        program = shutil.which("docker")
        if program is None:
            raise self.unavailable("there is no program `docker`")
        return [program, *(("--host", self._address) if self._address else ()), *arguments]


def broke_off(complaint: str) -> bool:
    """Whether the engine had begun to answer, and was lost over it."""
    return not _engine_spoke(complaint) and any(sign in complaint.lower() for sign in _BROKEN_OFF)


def words_of(complaint: str) -> str:
    """The complaint itself, without what surrounds it."""
    lines = [line.removeprefix(_ENGINE_SAYS).strip() for line in complaint.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_CHATTER))


def _engine_spoke(complaint: str) -> bool:
    return any(sign in complaint for sign in _ENGINE_SPOKE)
