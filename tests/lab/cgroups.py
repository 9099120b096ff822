"""Control groups of a lab, removed with the lab or with the test process.

The kernel removes a cell's processes, mounts and networks with it. The groups of its containers are directories
that stay, empty. So a sweeper outside waits for the end or a crash of the tests and removes them.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

_SWEEP = """
cat  # ends with whoever holds the other end
for attempt in $(seq 300); do
    groups=$(find /sys/fs/cgroup -depth -type d -path "*/$0*")
    [ -n "$groups" ] || exit 0
    rmdir $groups
    sleep 0.1
done
exit 1
"""


@contextmanager
def own_cgroups() -> Iterator[str]:
    """A parent for containers' groups, for `dockerd --cgroup-parent`. The groups are removed after the block."""
    name = f"aima-lab-{uuid.uuid4().hex[:12]}"
    sweeper = subprocess.Popen(
        ["sh", "-c", _SWEEP, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"/{name}"
    finally:
        sweeper.communicate()
        assert sweeper.returncode == 0, f"control groups of {name} are left"
