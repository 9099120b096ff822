"""A worker process that executes one operation on a real Docker Engine, and is killed by SIGKILL after its n-th write.

A write is one to Redis, to the container runtime or to the state directory: as `tests/worker/operations/test_kills.py`
counts them. It exits 0 if it made fewer.
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


def main(settings: str, redis_url: str, operation: str, writes: int) -> None:
    left = [writes]
    for owner, name in ((Scripts, "__call__"), (Scripts, "each"), (DockerSdkRuntime, "run")):
        killed_after(left, owner, name)
    killed_after(left, DockerSdkRuntime, "remove")
    killed_after(left, fences, "write_atomically")
    link, runtime = command_link(redis_url), DockerSdkRuntime(host="alpha")
    with host_of(Settings.model_validate_json(settings), link, runtime) as host:
        execute(host, OperationId(operation))


def killed_after(left: list[int], owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def call(*args: Any, **more: Any) -> Any:
        result = original(*args, **more)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, call)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
