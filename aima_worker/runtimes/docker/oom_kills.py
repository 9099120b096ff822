"""Detects OOM kills that the engine does not report.

The cgroup of a container notifies the engine. The notification is lost if the cgroup is removed first, which happens to
1 kill in 60 on a busy host, and none is sent if the whole host is out of memory. The kernel counts both, for the host
and not by container, so an exit by SIGKILL right after an increase counts as an OOM kill.
"""

from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

VMSTAT = Path("/proc/vmstat")
EXIT_DELAY = timedelta(seconds=5)
"""From the kill to the exit of the container: the killed process may be a child."""
MOST_INCREASES = 100


class OomKills:
    """A history of the kernel's counter: each increase lies between two reads."""

    def __init__(self, vmstat: Path | None) -> None:
        """`vmstat` is the kernel's file of counters; None if the containers run on another machine."""
        self._vmstat = vmstat
        self._lock = Lock()
        self._increases: deque[tuple[datetime, datetime]] = deque(maxlen=MOST_INCREASES)
        self._read_at, self._kills = datetime.now(UTC), self._count()

    def read(self) -> None:
        """Records an increase since the last read."""
        with self._lock:
            now, kills = datetime.now(UTC), self._count()
            if kills > self._kills:
                self._increases.append((self._read_at, now))
            self._read_at, self._kills = now, kills

    def any_shortly_before(self, exit_at: datetime) -> bool:
        """Whether the kernel killed a process at most EXIT_DELAY before a container exited."""
        self.read()
        with self._lock:
            return any(after <= exit_at <= before + EXIT_DELAY for after, before in self._increases)

    def _count(self) -> int:
        """OOM kills since the host booted; 0 if the kernel does not count them."""
        try:
            lines = self._vmstat.read_text().splitlines() if self._vmstat else []
        except OSError:
            lines = []
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
