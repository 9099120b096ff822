"""Becomes the program that its arguments name, and is killed when the thread that started it ends.

A script of its own, run by its path: between fork and exec of a process with threads, the same could hang.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, *program: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(parent):  # else it has ended already, and nobody is told
        os.execvp(program[0], program)


if __name__ == "__main__":
    main(*sys.argv[1:])
