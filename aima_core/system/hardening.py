"""What a process sets by prctl(2) before it holds secrets, or before it runs a program that is not trusted.

Imported by the process supervisor under `python -S`: the standard library only. Does nothing without Linux.
"""

import ctypes
import os
import sys

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38


def deny_memory_access() -> None:
    """Makes this process not dumpable: only root reads its memory and environment, and it leaves no core file.

    Until the next exec, and inherited by forks. Raises OSError.
    """
    _prctl(PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """No set-user-ID program and no file capability grants anything to this process and its descendants.

    For good. Raises OSError.
    """
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def adopt_orphans() -> None:
    """Makes this process the parent of descendants that lose theirs; it must reap them. Raises OSError."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def checked(result: int, subject: str) -> None:
    """Raises OSError if a function of the C library has returned an error."""
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), subject)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        checked(libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3), f"prctl {option}")


libc = ctypes.CDLL(None, use_errno=True)
