"""Starts supervisors as children of this worker and reaps them, so that none stays a zombie.

One list under one lock for the whole process, for every thread and runtime. Supervisors that survived a
restart of the worker are children of init, which reaps them.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import aima_worker
from aima_worker.runtime import ContainerSpec
from aima_worker.runtimes.process.process_table import MARK

START_TIMEOUT = timedelta(seconds=20)
"""Until a supervisor reports its start: slow on a machine that is loading models."""
_ENVIRONMENT = {"PYTHONPATH": str(Path(aima_worker.__file__).resolve().parents[1])}
_children: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


def launch(directory: Path, order: dict[str, Any]) -> str | None:
    """Start a supervisor with the order in `directory`. Returns None once the engine runs, else the reason."""
    supervisor = subprocess.Popen(
        [*_python("supervisor"), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_ENVIRONMENT,
        start_new_session=True,
    )
    with _lock:
        _children.append(supervisor)
    answer = _answer(supervisor, json.dumps(order).encode())
    if answer == "started":
        return None
    supervisor.kill()
    return answer


def kill_user(user: int, *, killer: int) -> None:
    """Kill every process of an engine's user, unless a supervisor holds it. Returns once none runs."""
    command = [*_python("users"), str(user), str(killer)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd="/", env=_ENVIRONMENT, timeout=START_TIMEOUT.total_seconds(), check=False)


def reap() -> None:
    """Reap the supervisors that have exited."""
    with _lock:
        _children[:] = [child for child in _children if child.poll() is None]


def _python(module: str) -> list[str]:
    """Without site packages, which it does not need: halves its start time."""
    return [sys.executable, "-S", "-m", f"aima_worker.runtimes.process.{module}"]


def _answer(supervisor: subprocess.Popen[bytes], order: bytes) -> str:
    assert supervisor.stdin and supervisor.stdout
    with supervisor.stdout as reports, supervisor.stdin as orders:
        try:
            orders.write(order)
            orders.close()
        except BrokenPipeError:
            return "its supervisor exited before it received the order"
        waiting = select.poll()
        waiting.register(reports, select.POLLIN)
        if not waiting.poll(START_TIMEOUT / timedelta(milliseconds=1)):
            return f"its supervisor did not report for {START_TIMEOUT.total_seconds():.0f} s"
        line = reports.readline().decode().strip()
    return line or "its supervisor exited without a report"


_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
"""All else of the worker's environment is its own: keys, proxies with passwords, tokens."""
_INHERITED_BY_USER = ("HOME", "USER", "TMPDIR")
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def find_program(program: str) -> str | None:
    """The program's full path. Also searches ~/.local/bin, which the PATH of a service often lacks."""
    return shutil.which(program, path=_path())


def environment(spec: ContainerSpec, *, mark: str, home: str | None) -> dict[str, str]:
    """`home` is the directory of an engine with a user of its own; None keeps those of the worker's user."""
    names = _INHERITED if home else _INHERITED + _INHERITED_BY_USER
    own = {name: os.environ[name] for name in names if name in os.environ}
    if home:
        own |= {"HOME": home, "TMPDIR": home}
    # Python buffers its output to a pipe otherwise; other programs ignore this.
    return {**own, "PYTHONUNBUFFERED": "1", **_gpus(spec), **spec.environment, "PATH": _path(), MARK: mark}


def _path() -> str:
    return f"{os.environ.get('PATH') or _DEFAULT_PATH}:{Path.home() / '.local' / 'bin'}"


def _gpus(spec: ContainerSpec) -> dict[str, str]:
    match spec.gpus:
        case "all":
            return {}
        case None:
            return {"CUDA_VISIBLE_DEVICES": ""}
        case int() as count:
            return {"CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(count))}
        case ids:
            return {"CUDA_VISIBLE_DEVICES": ",".join(ids)}
