"""`aima up` with a fake API, a fake gateway and a fake worker: run as a file, once for each role.

The worker behaves as WORKER says: `well`, `crash` before it is ready, or `stubborn` against SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

HOST = {
    "name": "box",
    "arch": "amd64",
    "accelerators": [],
    "cores": 2,
    "memory": 8_000_000_000,
    "runtime": "process",
    "runtime_version": "1",
    "live": True,
}
READY = {"instances": [{"state": "ready"}]}


def be_up(state_dir: str, port: str, *, detached: bool = False) -> None:
    from aima_api.cli.errors import report_error
    from aima_api.up.app import Programs, run

    me = (sys.executable, __file__)
    try:
        sys.exit(
            run(
                runtime=None,
                state_dir=Path(state_dir),
                port=int(port),
                detached=detached,
                programs=Programs((*me, "api"), (*me, "gateway"), (*me, "worker")),
            )
        )
    except Exception as problem:  # noqa: BLE001 the process boundary
        sys.exit(report_error(problem))


def be_detached(state_dir: str, port: str) -> None:
    be_up(state_dir, port, detached=True)


def be_the_api() -> None:
    from api.cli.stand_in import stand_in_api

    worker = Path(os.environ["AIMA_STATE_DIR"], "worker.pid")
    worker.unlink(missing_ok=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _note_pid("api")
    with stand_in_api(int(os.environ["AIMA_API__PORT"])) as api:
        api.answer("GET /readyz", {"status": "ready"})
        api.answer("GET /v1/services", {"items": [READY], "next": None})
        api.answer("GET /v1/hosts/box", HOST | {"seen_at": "2020-01-01T00:00:00Z"})  # by a previous worker
        while signal.sigtimedwait({signal.SIGTERM}, 0.05) is None:
            if worker.exists():
                api.answers["GET /v1/hosts/box"] = [(200, HOST | {"seen_at": datetime.now(UTC).isoformat()})]
    _say("the API ends")


def be_the_gateway() -> None:
    from api.cli.stand_in import stand_in_api

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _note_pid("gateway")
    with stand_in_api(int(os.environ["AIMA_GATEWAY__PORT"])) as gateway:
        gateway.answer("GET /readyz", {"ready": True})
        signal.sigwait({signal.SIGTERM})
    _say("the gateway ends")


def be_the_worker() -> None:
    behaviour = os.environ.get("WORKER", "well")
    _say('{"event": "looking for a GPU", "level": "info", "found": 0}')
    if behaviour == "crash":
        _say("no GPU, no worker")
        sys.exit(3)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_say("the worker ends")))
    _note_pid("worker")
    while True:
        signal.pause()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _note_pid(role: str) -> None:
    """Atomic, so that a concurrent reader gets the previous content."""
    there = Path(os.environ["AIMA_STATE_DIR"], f"{role}.pid")
    new = there.with_suffix(".new")
    new.write_text(str(os.getpid()))
    new.replace(there)


if __name__ == "__main__":
    roles = {"api": be_the_api, "gateway": be_the_gateway, "worker": be_the_worker}
    ({"up": be_up, "detached": be_detached} | roles)[sys.argv[1]](*sys.argv[2:])
