"""The state directory: its single-instance lock, atomic writes, and values minted once.

Imported by the process supervisor under `python -S`: the standard library only at import.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

LOCK_ATTEMPTS = 25
LOCK_RETRY_INTERVAL = timedelta(milliseconds=20)


@contextmanager
def lock(state_dir: Path, name: str) -> Iterator[None]:
    """Holds `name.lock` in the directory, made if need be, while inside. Raises AlreadyUp if another process does."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / f"{name}.lock").open("a+") as file:
        if not _lock_exclusively(file):
            from aima_core.errors import AlreadyUp

            file.seek(0)
            raise AlreadyUp(pid=file.read().strip() or "unknown", state_dir=state_dir)
        file.truncate(0)
        with suppress(OSError):  # the pid is for people; a full disk must not keep a host from its engines
            file.write(str(os.getpid()))
            file.flush()
        yield


def _lock_exclusively(file: IO[str]) -> bool:
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_RETRY_INTERVAL.total_seconds())  # race: `lock_holder` holds it for a moment
        else:
            return True
    return False


def lock_holder(state_dir: Path, name: str) -> int | None:
    """The process that holds `name.lock`; None if none does, whatever the file says (stale process id)."""
    try:
        with (state_dir / f"{name}.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        text = (state_dir / f"{name}.lock").read_text()
        return int(text) if text.isdigit() else None  # race: it has not written its id yet
    return None


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replaces the file: a crash leaves the old content or the new, never half of either."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)  # such as half of it, on a full disk
        raise


def mint(path: Path, make: Callable[[], str], *, mode: int = 0o644) -> str:
    """Returns the file's text, made by `make` if there is none yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, make(), mode=mode)
    return path.read_text().strip()


def secret(path: Path) -> str:
    """A random secret, minted once and readable by its owner only."""
    return mint(path, lambda: secrets.token_urlsafe(32), mode=0o600)
