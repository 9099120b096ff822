"""`aima up --detach` and `aima down`: a supervisor in the background, found by the lock of its state directory.

The kernel releases the lock when its holder ends, however it ends, so a stale process id is never signalled. What the
supervisor announces once everything is ready, `up.json`, counts only while that process holds the lock.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NamedTuple

from aima_core.errors import StillUp
from aima_core.system.state_dir import lock_holder, write_atomically

LOCK = "up"
LOG = "up.log"
LOG_LIMIT = 10 << 20
"""Bytes after which the log is rotated. One older file is kept."""
DOWN_TIMEOUT = timedelta(seconds=45)
"""More than all parts may take to stop; then they are killed."""
KILL_TIMEOUT = timedelta(seconds=10)
POLL_INTERVAL = timedelta(milliseconds=100)
_ANNOUNCED = "up.json"


class Up(NamedTuple):
    """A supervisor that is ready."""

    pid: int
    url: str
    log: str | None
    """None in the foreground."""


class Failed(NamedTuple):
    exit_code: int
    lines: str
    """What it printed."""


def announce(state_dir: Path, url: str, *, log: Path | None) -> None:
    up = Up(os.getpid(), url, str(log) if log else None)
    write_atomically(state_dir / _ANNOUNCED, json.dumps(up._asdict()), mode=0o600)


def running(state_dir: Path) -> Up | None:
    """None if no supervisor holds the lock, or it is not ready yet."""
    try:
        up = Up(**json.loads((state_dir / _ANNOUNCED).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return up if lock_holder(state_dir, LOCK) == up.pid else None


def start(command: Sequence[str], state_dir: Path) -> Up | Failed:
    """Runs the command, `aima up`, in a session of its own, and returns once everything is ready or it has ended.

    An interrupt meanwhile stops it.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = state_dir / LOG
    with log.open("ab") as output:
        log.chmod(0o600)
        before = output.tell()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
        )
    try:
        while child.poll() is None:
            if (up := running(state_dir)) and up.pid == child.pid:
                return up
            time.sleep(POLL_INTERVAL.total_seconds())
    except BaseException:
        child.terminate()
        child.wait()
        raise
    with log.open("rb") as printed:
        printed.seek(before)
        return Failed(child.returncode, printed.read().decode(errors="replace"))


def stop(state_dir: Path) -> int | None:
    """Stops the supervisor with its parts, and kills them after a timeout. Returns its process id; None without one.

    Raises StillUp.
    """
    if (pid := lock_holder(state_dir, LOCK)) is None:
        return None
    for timeout in (DOWN_TIMEOUT, KILL_TIMEOUT):  # the second signal kills its parts
        deadline = time.monotonic() + timeout.total_seconds()
        try:
            with suppress(ProcessLookupError):  # race: it ended since the look at its lock
                os.kill(pid, signal.SIGTERM)
        except PermissionError as another_users:
            raise StillUp(pid=pid, detail="it belongs to another user") from another_users
        while time.monotonic() < deadline:
            if lock_holder(state_dir, LOCK) != pid:
                return pid
            time.sleep(POLL_INTERVAL.total_seconds())
    raise StillUp(pid=pid, detail="it does not end")


class RotatingLog(io.TextIOBase):
    """A stream that rotates its file, for output that has no end."""

    def __init__(self, path: Path, *, limit: int = LOG_LIMIT) -> None:
        self._handler = _Rotating(path, maxBytes=limit, backupCount=1, encoding="utf-8", errors="replace")

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # click takes a stream that accepts bytes for a binary one
            raise TypeError("text only")
        self._handler.handle(logging.makeLogRecord({"msg": text}))
        return len(text)

    def flush(self) -> None:
        self._handler.flush()


class _Rotating(RotatingFileHandler):
    terminator = ""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's name
        """Drops what a full disk does not take, so that the parts run on."""
