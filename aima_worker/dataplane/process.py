"""The worker's side: writes the configuration, and keeps the process running.

The process gets SIGTERM when the worker ends, however it ends, and then serves its open streams to their end, while
that of the next worker listens already.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import structlog

from aima_core.settings import Settings
from aima_core.system.background import BackgroundLoop
from aima_core.system.die_with_parent import dying_with_parent
from aima_worker.dataplane.files import Config, directory_of

CHECK_INTERVAL = timedelta(seconds=1)
STABLE_AFTER = timedelta(minutes=1)
LONGEST_DELAY = timedelta(seconds=30)
_FROM_SYSTEMD = ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")

_log = structlog.get_logger()


class DataplaneProcess:
    def __init__(self, settings: Settings) -> None:
        self._directory = directory_of(settings)
        self._config = Config.of(settings) if settings.dataplane_url else None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._failures = 0
        # The kernel ends the process with the thread that started it: a thread that lives as long as the worker.
        self._loop = BackgroundLoop("data plane", self._supervise, interval=CHECK_INTERVAL)

    def start(self) -> None:
        if self._config is None:
            return
        self._config.save(self._directory)
        self._loop.start()

    def stop(self) -> None:
        """It ends by itself, with its last stream."""
        self._loop.stop(within=CHECK_INTERVAL)
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _supervise(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        now = time.monotonic()
        if self._process is not None:
            self._failures = 0 if now - self._started_at > STABLE_AFTER.total_seconds() else self._failures + 1
            _log.warning("data plane ended, restarted", exit_status=self._process.returncode, failures=self._failures)
            self._loop.sleep(min(CHECK_INTERVAL * 2 ** min(self._failures, 10) / 4, LONGEST_DELAY))
            if self._loop.stopped:
                return
        program = [sys.executable, "-m", "aima_worker.dataplane", str(self._directory)]
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            [*dying_with_parent(signal.SIGTERM), *program],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C ends the worker, which ends it
        )


def _environment() -> dict[str, str]:
    """Without settings, of which some are secret, and without the way to the container engine."""
    private = ("AIMA_", "DOCKER_")
    return {
        name: text for name, text in os.environ.items() if not name.startswith(private) and name not in _FROM_SYSTEMD
    }
