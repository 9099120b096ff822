"""What lies in a process's directory, written by the runtime and its supervisor for each other and for later ones.

file          written by    says
spec.json     runtime       what shall run, and the id of this run; there from before it starts until it is removed
running.json  supervisor    who runs: the pids with their start times, and since when
exit.json     supervisor    how it ended; the log is complete by then
log, log.1    supervisor    what the engine said, newest in `log` (see `process_log`)
work/         engine        its working directory

The standard library only: a supervisor starts with every engine, and must do so at once.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from aima_core.system.state_dir import write_atomically

SPEC = "spec.json"
RUNNING = "running.json"
EXIT = "exit.json"
LOG = "log"
WORK = "work"

LOST_EXIT_CODE = 137
"""Of an engine whose end nobody saw: it was killed, with its supervisor or after it."""


def write(path: Path, content: dict[str, Any]) -> None:
    """All of it or nothing, whenever this process is killed."""
    write_atomically(path, json.dumps(content))


def read(path: Path) -> dict[str, Any] | None:
    """None if it is not there."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def write_exit(directory: Path, *, code: int, out_of_memory: bool) -> dict[str, Any]:
    ended = {"code": code, "out_of_memory": out_of_memory}
    with suppress(FileNotFoundError):  # it was removed meanwhile, and nobody wants to know
        write(directory / EXIT, ended)
    return ended
