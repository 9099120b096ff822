"""`python -m aima_api.flower`: Flower, with every host as a worker and every operation as a task under its own id.

Nobody looks in without a password, and nobody changes anything: what Flower could do to workers and messages is
switched off, since the intent is in AIMA's records and not in the messages that it would revoke or send.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from flower.app import Flower  # type: ignore[import-untyped]  # ships no types
from flower.options import options  # type: ignore[import-untyped]
from flower.urls import settings as pages  # type: ignore[import-untyped]
from flower.views.monitor import Metrics  # type: ignore[import-untyped]
from tornado.web import authenticated

from aima_api.http.loopback import is_loopback
from aima_core.errors import AimaError, BadSettings
from aima_core.queue.celery_app import celery_app
from aima_core.settings import FlowerSettings, Settings, load_settings
from aima_core.system.state_dir import secret

REDIS_ANSWER_SECONDS = 10
MOST_TASKS = 10_000
"""Remembered at once; the oldest go first."""
TASK_COLUMNS = "name,uuid,state,kwargs,worker,received,runtime"


def main() -> int:
    try:
        serve(load_settings())
    except AimaError as failed:
        sys.stderr.write(f"error: {failed}\nhint: {failed.failure.hint}\ncode: {failed.code}\n")
        return failed.exit_code


def serve(settings: Settings) -> NoReturn:
    """Show what goes on until a signal, which ends this process. Raises BadSettings."""
    check_bind(settings.flower)
    password, lies_in = _password(settings)
    flower = make_flower(settings, password=password)
    port = _listen(flower, settings.flower)
    sys.stderr.write(f"Flower is at http://{settings.flower.bind}:{port}, for {settings.flower.user!r} {lies_in}\n")
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)  # it complains of every moment without a worker
    _end_at_a_signal(flower)
    flower.io_loop.add_callback(flower.events.on_enable_events)  # at once, and not only after its interval
    flower.start()
    os._exit(0)  # its threads may be waiting for Redis, and it holds nothing that is worth waiting for them


def check_bind(told: FlowerSettings) -> None:
    """Raises BadSettings where others could reach it, and nobody chose a password."""
    if not told.password and not is_loopback(told.bind):
        detail = f"Flower was to listen on {told.bind} without a password of your own."
        raise BadSettings(detail=detail, where="AIMA_FLOWER__PASSWORD, or bind it to 127.0.0.1")


def make_flower(settings: Settings, *, password: str) -> Any:
    options.address, options.port = settings.flower.bind, settings.flower.port
    options.basic_auth = [f"{settings.flower.user}:{password}"]
    options.read_only = True
    options.max_tasks = MOST_TASKS
    options.tasks_columns = TASK_COLUMNS
    app = celery_app(settings.redis.url.get_secret_value(), answer_within=timedelta(seconds=REDIS_ANSWER_SECONDS))
    flower = Flower(capp=app, options=options, **pages)
    flower.add_handlers(".*", [("/metrics", _LockedMetrics)])
    return flower


class _LockedMetrics(Metrics):  # type: ignore[misc]  # its base has no types
    """Flower shows these to anybody, and they name hosts."""

    @authenticated
    async def get(self) -> None:
        await super().get()


def _password(settings: Settings) -> tuple[str, str]:
    """And in which words to tell where it is."""
    if settings.flower.password:
        return settings.flower.password.get_secret_value(), "and the password in the settings"
    directory = settings.state_dir.expanduser().resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = Path(directory, "flower.password")
    return secret(kept), f"and the password in {kept}"


def _listen(flower: Any, told: FlowerSettings) -> int:
    try:
        return int(flower.start_http_server())
    except OSError as refused:
        detail = f"Flower cannot listen on {told.bind}, port {told.port}: {refused.strerror}."
        where = "AIMA_FLOWER__PORT (`--port`) or AIMA_FLOWER__BIND (`--bind`)"
        raise BadSettings(detail=detail, where=where) from refused


def _end_at_a_signal(flower: Any) -> None:
    loop: asyncio.AbstractEventLoop = flower.io_loop.asyncio_loop
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, flower.stop)


if __name__ == "__main__":
    sys.exit(main())
