"""Flower (`python -m aima_api.flower`): shows every host as a Celery worker and every operation as a task of its id.

It requires a password and is read-only: the desired state is in AIMA's records, so a message that Flower revoked or
sent would be redelivered or ignored.
"""

from __future__ import annotations

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

from aima_core.errors import AimaError, BadSettings
from aima_core.queue.celery_app import celery_app
from aima_core.settings import FlowerSettings, Settings, load_settings
from aima_core.system.loopback import is_loopback
from aima_core.system.state_dir import secret

REDIS_TIMEOUT = timedelta(seconds=10)
MAX_TASKS = 10_000
"""Cached in memory; the oldest are dropped first."""
TASK_COLUMNS = "name,uuid,state,kwargs,worker,received,runtime"


def main() -> int:
    try:
        serve(load_settings())
    except AimaError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.failure.hint}\ncode: {error.code}\n")
        return error.exit_code


def serve(settings: Settings) -> NoReturn:
    """Serves until a signal ends this process.

    Raises BadSettings, also if it would be reachable from the network with the minted password.
    """
    if not settings.flower.password and not is_loopback(settings.flower.bind):
        detail = f"Flower would listen on {settings.flower.bind} without a password of your own."
        raise BadSettings(detail=detail, where="AIMA_FLOWER__PASSWORD, or bind it to 127.0.0.1")
    password, where = _password(settings)
    flower = make_flower(settings, password=password)
    port = _listen(flower, settings.flower)
    sys.stderr.write(f"Flower is at http://{settings.flower.bind}:{port}, for {settings.flower.user!r} {where}\n")
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)  # it warns whenever no worker answers
    for number in (signal.SIGTERM, signal.SIGINT):
        flower.io_loop.asyncio_loop.add_signal_handler(number, flower.stop)
    flower.io_loop.add_callback(flower.events.on_enable_events)  # now, not after its first interval
    flower.start()
    os._exit(0)  # its threads may block on Redis, and it holds no state


def make_flower(settings: Settings, *, password: str) -> Any:
    options.address, options.port = settings.flower.bind, settings.flower.port
    options.basic_auth = [f"{settings.flower.user}:{password}"]
    options.read_only = True
    options.max_tasks = MAX_TASKS
    options.tasks_columns = TASK_COLUMNS
    app = celery_app(settings.redis.url.get_secret_value(), answer_within=REDIS_TIMEOUT)
    flower = Flower(capp=app, options=options, **pages)
    flower.add_handlers(".*", [("/metrics", _LockedMetrics)])
    return flower


class _LockedMetrics(Metrics):  # type: ignore[misc]  # its base has no types
    """Flower itself serves its metrics without a password, and they name hosts."""

    @authenticated
    async def get(self) -> None:
        await super().get()


def _password(settings: Settings) -> tuple[str, str]:
    """The password, and a phrase that says where to find it."""
    if settings.flower.password:
        return settings.flower.password.get_secret_value(), "and the password in the settings"
    directory = settings.state_dir.expanduser().resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = Path(directory, "flower.password")
    return secret(file), f"and the password in {file}"


def _listen(flower: Any, settings: FlowerSettings) -> int:
    try:
        return int(flower.start_http_server())
    except OSError as error:
        detail = f"Flower cannot listen on {settings.bind}, port {settings.port}: {error.strerror}."
        where = "AIMA_FLOWER__PORT (`--port`) or AIMA_FLOWER__BIND (`--bind`)"
        raise BadSettings(detail=detail, where=where) from error


if __name__ == "__main__":
    sys.exit(main())
