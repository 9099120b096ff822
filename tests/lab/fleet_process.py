"""Many hosts in one process, each a complete worker with a fake runtime: `python -m lab.fleet_process FILE`.

FILE describes the hosts (see `lab.fleet`). Requests are JSON lines on stdin, answers go to stdout. SIGTERM shuts all
hosts down; the end of stdin kills them, so that a fleet never outlives its test.

Celery expects one worker per process. Several workers share, and this module handles:
- the application in which a task is looked up: each worker's pool sets it before each task,
- the event loop: each worker is created where there is none,
- the shutdown flag and its signal: they are for all workers, as SIGTERM is.
The other shared state (active requests, for statistics and remote control) decides nothing.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from threading import Lock, Thread
from threading import enumerate as enumerate_threads
from typing import Any, TextIO

import structlog
from celery import concurrency, signals
from celery.app.trace import fast_trace_task
from celery.concurrency.thread import TaskPool
from celery.worker import state
from kombu.asynchronous import set_event_loop
from lab.fleet_runtime import FleetRuntime
from lab.plain_logs import log_plainly

from aima_core.errors import AimaError
from aima_core.settings import Settings
from aima_worker.app import worker_with_loops
from aima_worker.execution.shutdown import exit_within_deadline, request_shutdown
from aima_worker.runtimes.fake.engine import Behaviour


class HomePool(TaskPool):
    """A thread pool that looks a task up in the application of the worker that received it."""

    def on_apply(self, target: Callable[..., Any], args: Any = None, kwargs: Any = None, **how: Any) -> Any:
        assert target is fast_trace_task, f"Celery carries tasks out by {target}, which is told nothing of a home"
        home = (self.app.tasks, {"application/json"}, None)
        return super().on_apply(target, args, {**(kwargs or {}), "_loc": home}, **how)


class Crowd:
    """The hosts of this process."""

    def __init__(self, hosts: list[Mapping[str, Any]]) -> None:
        self._settings = [Settings(**host["settings"]) for host in hosts]
        self._allocations = {
            settings.host.name: _room(host) for settings, host in zip(self._settings, hosts, strict=True)
        }
        self._workers: dict[str, Any] = {}
        self._making = Lock()
        self._ready = 0
        self._threads = [
            Thread(target=self._live, args=(settings,), name=settings.host.name) for settings in self._settings
        ]

    def begin(self) -> None:
        signals.worker_ready.connect(self._count, weak=False)
        for thread in self._threads:
            thread.start()

    def hand_on(self) -> None:
        """Shuts every host down, as a worker does at SIGTERM."""
        if not any(getattr(worker, "displaced", False) for worker in [*self._workers.values()]):
            exit_within_deadline(lambda: 0)
        request_shutdown()
        state.should_stop = 0

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()

    def answer(self, ask: str, **reported: Any) -> Any:
        return getattr(self, f"_tell_{ask}")(**reported)

    def _tell_ready(self) -> int:
        return self._ready

    def _tell_running(self) -> dict[str, list[str]]:
        return {name: room.running() for name, room in self._allocations.items()}

    def _tell_made(self) -> dict[str, int]:
        return {name: count for room in self._allocations.values() for name, count in room.created_by_name().items()}

    def _tell_away(self, host: str, is_away: bool) -> None:
        self._allocations[host].away = is_away

    def _tell_crash(self, host: str, container: str) -> None:
        self._allocations[host].end(container, exit_code=1, last_words="it was asked to crash")

    def _tell_remove(self, host: str, container: str) -> None:
        self._allocations[host].remove(container, grace=timedelta())

    def _tell_squat(self, host: str, port: int) -> None:
        self._allocations[host].taken_ports.add(port)

    def _tell_make_way(self, host: str, port: int) -> None:
        self._allocations[host].taken_ports.discard(port)

    def _tell_containers(self) -> dict[str, list[tuple[str, str, int]]]:
        return {host: room.standing() for host, room in self._allocations.items()}

    def _tell_created(self) -> dict[str, list[dict[str, Any]]]:
        return {host: room.created for host, room in self._allocations.items()}

    def _tell_holds(self) -> dict[str, Any]:
        threads = [thread.name for thread in enumerate_threads() if "ThreadPool" not in thread.name]
        return {"threads": threads, "descriptors": len(list(Path("/proc/self/fd").iterdir()))}

    def _live(self, settings: Settings) -> None:
        while self._live_until_displaced(settings):
            state.should_stop = None

    def _live_until_displaced(self, settings: Settings) -> bool:
        """Whether the worker was displaced: it joins again, as `aima worker` does by re-executing itself."""
        room = self._allocations[settings.host.name]
        with ExitStack() as life:
            with self._making:
                set_event_loop(None)
                worker = life.enter_context(worker_with_loops(settings, room, probe=room.probe))
                self._workers[settings.host.name] = worker
            worker.start()
        if not getattr(worker, "displaced", False):
            return False
        with self._making:
            del self._workers[settings.host.name]
        del worker, life
        set_event_loop(None)
        gc.collect()
        return True

    def _count(self, **_: Any) -> None:
        with self._making:
            self._ready += 1


def main() -> None:
    answers = sys.stdout  # Celery replaces it with a logger
    concurrency.ALIASES["threads"] = f"{__name__}:HomePool"
    warnings.filterwarnings("ignore", "You're running the worker with superuser")
    logging.getLogger("celery.app.trace").setLevel(logging.ERROR)
    log_plainly(logger_factory=structlog.WriteLoggerFactory(file=sys.stderr))
    crowd = Crowd(json.loads(Path(sys.argv[1]).read_text()))
    signal.signal(signal.SIGTERM, lambda *_: crowd.hand_on())
    Thread(target=_converse, args=(crowd, sys.stdin, answers), name="questions", daemon=True).start()
    crowd.begin()
    crowd.wait()


def _converse(crowd: Crowd, questions: TextIO, answers: TextIO) -> None:
    for line in questions:
        question = json.loads(line)
        number = question.pop("number")
        answers.write(json.dumps({"number": number, **_answered(crowd, question)}) + "\n")
        answers.flush()
    os._exit(1)


def _answered(crowd: Crowd, question: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return {"answer": crowd.answer(**question)}
    except (AimaError, KeyError) as cannot:  # the container was removed, or the engine is unavailable
        return {"cannot": repr(cannot)}


def _room(host: Mapping[str, Any]) -> FleetRuntime:
    room = FleetRuntime(
        host=host["settings"]["host"]["name"],
        arch=host["arch"],
        images=host["images"],
        kept_in=Path(host["kept_in"]) if host["kept_in"] else None,
        pull_pace=timedelta(seconds=host["pull_pace"]),
    )
    room.behaviours.update(dict.fromkeys(host["engines"], Behaviour(loads_for=timedelta(seconds=host["loads_for"]))))
    return room


if __name__ == "__main__":
    main()
