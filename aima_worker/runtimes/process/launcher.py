"""Supervisors as children of this process: started here, and waited for here so that none stays a zombie.

They are children of the whole process, whichever runtime started them; those of an earlier worker are not ours to
wait for.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import aima_worker
from aima_worker.runtime import ContainerSpec
from aima_worker.runtimes.process.process_table import MARK

START_TIMEOUT = timedelta(seconds=20)
"""Until a supervisor says how it went; on a machine that is busy with loading models this takes a while."""
_ROOT = str(Path(aima_worker.__file__).resolve().parents[1])
_children: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


def launch(directory: Path, order: dict[str, Any]) -> str | None:
    """Have a supervisor carry the order out in `directory`; why it could not, or None when the engine runs."""
    # Without site packages, of which it needs none: that halves the time.
    supervisor = subprocess.Popen(
        [sys.executable, "-S", "-m", "aima_worker.runtimes.process.supervisor", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PYTHONPATH": _ROOT},
        start_new_session=True,
    )
    with _lock:
        _children.append(supervisor)
    answer = _answer(supervisor, json.dumps(order).encode())
    if answer == "started":
        return None
    supervisor.kill()
    return answer


def reap() -> None:
    """Wait for those that have ended."""
    with _lock:
        _children[:] = [child for child in _children if child.poll() is None]


def _answer(supervisor: subprocess.Popen[bytes], order: bytes) -> str:
    assert supervisor.stdin and supervisor.stdout
    with supervisor.stdout as said, supervisor.stdin as told:
        try:
            told.write(order)
            told.close()
        except BrokenPipeError:
            return "its supervisor ended before it was told what to do"
        waiting = select.poll()
        waiting.register(said, select.POLLIN)
        if not waiting.poll(START_TIMEOUT / timedelta(milliseconds=1)):
            return f"its supervisor was silent for {START_TIMEOUT.total_seconds():.0f} s"
        line = said.readline().decode().strip()
    return line or "its supervisor ended without a word"


_HANDED_ON = ("HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_LAST_RESORT = "/usr/local/bin:/usr/bin:/bin"


def located(program: str) -> str | None:
    """The program's full path; ~/.local/bin is searched although services often have it not on their PATH."""
    return shutil.which(program, path=_path())


def environment(spec: ContainerSpec, *, mark: str) -> dict[str, str]:
    own = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    # Python keeps its lines back when they go into a pipe; other programs do not care.
    return {**own, "PYTHONUNBUFFERED": "1", **_gpus(spec), **spec.environment, "PATH": _path(), MARK: mark}


def _path() -> str:
    return f"{os.environ.get('PATH') or _LAST_RESORT}:{Path.home() / '.local' / 'bin'}"


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
