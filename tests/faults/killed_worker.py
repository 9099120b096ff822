"""A worker process that executes one operation on a real Docker Engine, and is killed by SIGKILL after a write.

A write is one to Redis, to the container runtime or to the state directory, known by the name of its script or
function: their total number depends on how often a slow Docker Engine lets the claim be renewed. It exits 0 if it does
not come so far.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from lab.desk import host_of

from aima_core.domain.ids import OperationId
from aima_core.redis.connection import command_link
from aima_core.redis.scripts import Scripts
from aima_core.settings import Settings
from aima_worker.execution import fences
from aima_worker.execution.executor import execute
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime


def main(settings: str, redis_url: str, operation: str, write: str, times: int) -> None:
    """`write` is `services/restore`, `run`, `remove` or `write_atomically`; it is killed after so many of them."""
    left = [times]
    killed_after(Scripts, "__call__", if_named=write, left=left)
    killed_after(Scripts, "each", if_named=write, left=left)
    for owner, name in ((DockerSdkRuntime, "run"), (DockerSdkRuntime, "remove"), (fences, "write_atomically")):
        if name == write:
            killed_after(owner, name, left=left)
    link, runtime = command_link(redis_url), DockerSdkRuntime(host="alpha")
    with host_of(Settings.model_validate_json(settings), link, runtime) as host:
        execute(host, OperationId(operation))


def killed_after(owner: Any, name: str, *, left: list[int], if_named: str | None = None) -> None:
    original = getattr(owner, name)

    def call(*args: Any, **more: Any) -> Any:
        result = original(*args, **more)
        if if_named is None or if_named in args:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, call)


if __name__ == "__main__":
    main(*sys.argv[1:5], times=int(sys.argv[5]))
