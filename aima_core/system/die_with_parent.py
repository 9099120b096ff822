"""Executes a program that receives a signal when the process that launched it dies, however it dies.

Run as a file, with nothing but the standard library, since between fork and exec of a process with threads the same
call could deadlock: `die_with_parent.py SIGNAL PARENT_PID PROGRAM ARGUMENT…`.
"""

import ctypes
import os
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def dying_with_parent(signal: int) -> list[str]:
    """The words to put before a program's, so that it receives the signal when this process dies."""
    return [sys.executable, "-IS", str(Path(__file__).resolve()), str(int(signal)), str(os.getpid())]


def die_with_parent(signal: int, parent: int) -> None:
    """This process receives the signal when the thread that started it ends. Exits if the parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal)
    if os.getppid() != parent:  # race: it died before the line above
        sys.exit(1)


def main(signal: int, parent: int, program: list[str]) -> None:
    die_with_parent(signal, parent)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
