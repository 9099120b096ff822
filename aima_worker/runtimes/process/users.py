"""Dynamic users: each native engine has a user id of its own, without an account, while it runs.

So an engine can neither signal, trace nor read the worker and its neighbours, is limited by itself, and none of its
processes escapes: the id finds them all. The supervisor holds the lock of the id, as systemd does for its DynamicUser,
so that two installations on one host never share one. The last id of the range is never an engine's: processes that
kill have it. `python -m aima_worker.runtimes.process.users UID LAST` kills what a supervisor that crashed has left. The
standard library only.
"""

from __future__ import annotations

import fcntl
import grp
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

LOCKS = Path("/run/aima/users")
"""A file per user id, locked while an engine has it."""
GPU_GROUPS = ("video", "render")
"""The owners of GPU devices, where not every user may open them."""
_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
}
"""FOWNER removes what engines leave in directories of theirs; SYS_PTRACE measures the memory of other users' processes;
SYS_ADMIN makes the engine's own view of the files."""
_PROC = Path("/proc")
_KILL_TIMEOUT = timedelta(seconds=10)
_POLL_INTERVAL = timedelta(milliseconds=10)


def obstacle(users: Sequence[int]) -> str | None:
    """Why this process cannot run engines as these users; None if it can.

    Only root loses its capabilities by a change of users; a process that was given them keeps them.
    """
    if os.geteuid() != 0:
        return "the worker is not root"
    if lacking := [name for name, bit in _CAPABILITIES.items() if not _capabilities() >> bit & 1]:
        return f"the worker runs without CAP_{', CAP_'.join(lacking)}"
    for table in ("uid_map", "gid_map"):
        rows = [tuple(map(int, row.split())) for row in (_PROC / "self" / table).read_text().splitlines()]
        if not any(first <= users[0] and users[-1] < first + count for first, _, count in rows):
            return f"users {users[0]}-{users[-1]} do not exist in this user namespace"
    return None


def claimed(users: Sequence[int]) -> tuple[int, int]:
    """A user that no process has, and the descriptor of its lock. Raises OSError if all are in use."""
    LOCKS.mkdir(mode=0o700, parents=True, exist_ok=True)
    in_use = set(_users_of_processes())
    for user in users[:-1]:
        if user not in in_use and (descriptor := _locked(user)) is not None:
            if user not in _users_of_processes():  # race: its last holder may have crashed since the first look
                return user, descriptor
            os.close(descriptor)
    raise OSError(f"all {len(users) - 1} users of `native.users` are in use")


def gpu_groups() -> list[int]:
    found = []
    for name in GPU_GROUPS:
        with suppress(KeyError):
            found.append(grp.getgrnam(name).gr_gid)
    return found


def become(user: int, groups: Sequence[int] = ()) -> None:
    """For good: real, effective and saved ids, and no other groups. Raises OSError."""
    _change_users(user, user, groups)


def kill_processes_of(user: int, *, killer: int) -> bool:
    """Kills them all, those that fork concurrently, too. Returns False if some remain at the timeout.

    kill(2) of -1, with that user as the effective one, is one pass in the kernel that no fork escapes; a fork bomb wins
    against single kills. The real and saved user is `killer`, so that the engine cannot stop or kill the process.
    """
    deadline = time.monotonic() + _KILL_TIMEOUT.total_seconds()
    while user in _users_of_processes():
        if time.monotonic() > deadline:
            return False
        if (child := os.fork()) == 0:
            try:
                _change_users(killer, user)
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        time.sleep(_POLL_INTERVAL.total_seconds())
    return True


def user_of(pid: int) -> int | None:
    """Its real user; None for a zombie, and if it has exited."""
    if _field(pid, "State:", "Z") in "ZX":
        return None
    return int(_field(pid, "Uid:", "-1"))


def main(user: int, killer: int) -> None:
    """Kills the processes of a user that no supervisor holds."""
    LOCKS.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _locked(user) is not None:
        kill_processes_of(user, killer=killer)


def _users_of_processes() -> Iterator[int | None]:
    return (user_of(int(name)) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 only names


def _locked(user: int) -> int | None:
    descriptor = os.open(LOCKS / str(user), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _change_users(real: int, effective: int, groups: Sequence[int] = ()) -> None:
    """Raises OSError, also if capabilities are left: with CAP_KILL, a kill of -1 ends the whole host."""
    os.setgroups(groups)
    os.setresgid(real, real, real)
    os.setresuid(real, effective, real)
    if _capabilities():
        raise OSError("capabilities are left after the change of users, as by securebits")


def _capabilities() -> int:
    """The effective ones of this process. All bits if they cannot be read."""
    return int(_field(os.getpid(), "CapEff:", "f" * 16), 16)


def _field(pid: int, name: str, absent: str) -> str:
    """The first word of a line in its status."""
    try:
        lines = (_PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except (OSError, ValueError):
        return absent
    return next((line.split()[1] for line in lines if line.startswith(name)), absent)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
