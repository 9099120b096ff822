"""The files of one run, shared by the runtime, its supervisor, and the worker after a restart; all written atomically.

file          written by    content
spec.json     runtime       the spec and the id of this run; exists from before its start until its removal
running.json  supervisor    the pids with their start times, and the time of the start
exit.json     supervisor    the exit code; the log is complete by then
log, log.1    supervisor    the engine's output, newest in `log` (see `log_file.py`)
work/         engine        its working directory

The standard library only: the worker is blocked while a supervisor starts.
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
"""Of an engine whose supervisor crashed before it recorded the exit: the engine was killed."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Atomic, also if this process crashes."""
    write_atomically(path, json.dumps(content))


def read(path: Path) -> dict[str, Any] | None:
    """None if the file is missing."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def write_exit(directory: Path, *, code: int, out_of_memory: bool) -> dict[str, Any]:
    ended = {"code": code, "out_of_memory": out_of_memory}
    with suppress(FileNotFoundError):  # race: removed by another thread or worker
        write(directory / EXIT, ended)
    return ended
