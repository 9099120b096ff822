"""Detects kills for lack of memory that the engine does not report.

The engine is notified by the control group of the container. The notification is lost if the group is removed first,
which on a busy host happens to 1 kill in 60, and none is sent if the memory of the whole host is exhausted. The kernel
counts both, for the host and not by container.
"""

from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

VMSTAT = Path("/proc/vmstat")
SIGKILLED = 137
EXIT_DELAY = timedelta(seconds=5)
"""From the kill to the exit of the container, which the engine reports: the killed process may be a child."""
MOST_INCREASES = 100


class OomKills:
    """The times at which the kernel's counter increased, each between two reads of it."""

    def __init__(self, vmstat: Path | None) -> None:
        """`vmstat` is the kernel's file of counters; None if the containers run on another machine."""
        self._vmstat = vmstat
        self._lock = Lock()
        self._increases: deque[tuple[datetime, datetime]] = deque(maxlen=MOST_INCREASES)
        self._read_at, self._kills = datetime.now(UTC), self._count()

    def read(self) -> None:
        """The more often, the closer the times."""
        with self._lock:
            now, kills = datetime.now(UTC), self._count()
            if kills > self._kills:
                self._increases.append((self._read_at, now))
            self._read_at, self._kills = now, kills

    def explains(self, exit_at: datetime) -> bool:
        """Whether a process was killed shortly before a container exited."""
        self.read()
        with self._lock:
            return any(after <= exit_at <= before + EXIT_DELAY for after, before in self._increases)

    def _count(self) -> int:
        """Processes killed since the host booted; 0 without such a counter."""
        try:
            lines = self._vmstat.read_text().splitlines() if self._vmstat else []
        except OSError:
            lines = []
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
