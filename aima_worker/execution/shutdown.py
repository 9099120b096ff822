"""Shutdown hooks: run once, at the first signal that ends the worker, before Celery waits for its tasks.

A signal handler interrupts the main thread at any point, also where it holds a lock, and a second signal interrupts the
handler of the first and may end it by an exception. So handlers only put into a `SimpleQueue`, which is reentrant, and
threads that were started before run the hooks.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import SimpleQueue
from threading import Thread, Timer
from typing import Any

import structlog
from celery import signals

EXIT_TIMEOUT = timedelta(seconds=2.5)

_waiting: list[SimpleQueue[bool]] = []

_log = structlog.get_logger()


def request_shutdown(**_: Any) -> None:
    """From any thread or signal handler, any number of times. Celery's shutdown signal calls it, too."""
    for each in [*_waiting]:
        each.put(True)


@contextmanager
def at_shutdown(hook: Callable[[], None]) -> Iterator[None]:
    """Runs the hook once if shutdown is requested within the block, in a thread of its own."""
    requested: SimpleQueue[bool] = SimpleQueue()

    def wait() -> None:
        if requested.get():
            hook()

    thread = Thread(target=wait, name="shutdown", daemon=True)
    thread.start()
    _waiting.append(requested)
    signals.worker_shutting_down.connect(request_shutdown)
    try:
        yield
    finally:
        _waiting.remove(requested)
        requested.put(False)
        thread.join()


def exit_within_deadline(exit_code: Callable[[], int]) -> None:
    """Ends this process after EXIT_TIMEOUT, whatever still blocks."""

    def leave() -> None:
        _log.warning("worker exited at its deadline", reason="something does not answer")
        os._exit(exit_code())

    timer = Timer(EXIT_TIMEOUT.total_seconds(), leave)
    timer.daemon = True
    timer.start()
