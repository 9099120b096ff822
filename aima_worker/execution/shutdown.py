"""The end of a worker's process: in good order if that can be, and soon in any case.

A Redis that is silent would be waited for, once for each line to it. Nothing is lost with what is not told it now: what
was under way is taken over by its claim, and the host is seen to be silent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Timer

import structlog

SECONDS_TO_END = 2.5

_log = structlog.get_logger()


def exit_within_deadline(exit_code: Callable[[], int]) -> None:
    """Let this process live no longer than SECONDS_TO_END."""

    def leave() -> None:
        _log.warning("ended without waiting any longer", why="something does not answer")
        os._exit(exit_code())

    timer = Timer(SECONDS_TO_END, leave)
    timer.daemon = True
    timer.start()
