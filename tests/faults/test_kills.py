"""A worker killed by SIGKILL between two writes of a change, on a real Docker Engine: wholly old or wholly new."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from faults.conftest import PORTS
from faults.dial import a_dial
from lab.commands import SERVICE, SIGNING_KEY, a_stop_of
from lab.desk import Desk
from lab.forked import launch

from aima_core.domain.operations import StartService, State
from aima_core.domain.services import InstanceState, Service
from aima_core.settings import Settings
from aima_core.store.operations import now
from aima_core.trust.keys import SigningKey
from aima_core.trust.records import SignedService
from aima_worker.execution.executor import execute
from aima_worker.operations.container_spec import ours
from aima_worker.operations.readiness import http_status
from aima_worker.reconciler.loop import ReconcileLoop

pytestmark = [pytest.mark.docker, pytest.mark.redis]
CREATED = now()
OLD_PORT, NEW_PORT = PORTS[:2]
MADE = (("run", 1), ("services/update_status", 2), ("write_atomically", 2), ("services/restore", 1))
"""The candidate's container runs, its record is ready; the previous revision is remembered, its spec is current."""
UNDONE = (("remove", 1), ("run", 2), ("run", 1), ("services/set_desired", 2))
"""The candidate's container is removed, the previous one runs again; the candidate's runs, and its record is back."""
POINTS = 2
"""The first ones, but all in long runs: `tests/worker/operations/test_kills.py` has every write without Docker."""


def a_revision(number: int, **dialled: Any) -> StartService:
    spec = Service(id=SERVICE, created_at=CREATED, revision=number)
    record = SignedService.of(spec, SigningKey(SIGNING_KEY)).record
    start = a_dial(port=NEW_PORT if number > 1 else OLD_PORT, dialled=dialled)
    return start.model_copy(update={"spec": record})


def execute_and_kill(settings: Settings, redis_url: str, operation: str, *, after: tuple[str, int]) -> None:
    host = {"name": settings.host.name, "ports": f"{settings.host.ports[0]}-{settings.host.ports[-1]}"}
    own = {"state_dir": str(settings.state_dir), "installation": settings.installation, "host": host}
    own |= {"signing_key": SIGNING_KEY.get_secret_value()}
    ended = launch("faults.killed_worker", json.dumps(own), redis_url, operation, *map(str, after)).wait(60)
    assert ended == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("crashes", [False, True], ids=["made", "undone"])
def test_a_change_whose_worker_is_killed_between_two_writes_is_wholly_made_or_undone(
    desk: Desk, settings: Settings, redis_url: str, crashes: bool, request: pytest.FixtureRequest
) -> None:
    candidate = a_revision(2, **({"load-seconds": 9, "crash-after": 0.5} if crashes else {"flood": 1}))
    revision, port = (1, OLD_PORT) if crashes else (2, NEW_PORT)
    loop = ReconcileLoop(desk.host)
    points = UNDONE if crashes else MADE
    for after in points if request.config.getoption("--long") else points[:POINTS]:
        desk.run_command(a_revision(1))
        operation = desk.ask(candidate)

        execute_and_kill(settings, redis_url, operation, after=after)
        desk.host.fences._known = dict(desk.host.fences._read())
        desk.host.claim_store.release_all_of_host(desk.host.name)
        execute(desk.host, operation)
        loop.reconcile_once()

        instance = desk.host.services.instance(SERVICE.on(desk.host.name))
        containers = desk.host.runtime.containers(ours(desk.host))  # the engine has those of other tests, too
        assert instance is not None
        assert (instance.revision, instance.port) == (revision, port), after
        assert instance.state in (InstanceState.READY, InstanceState.RESTARTING), after
        assert desk.host.services.get(SERVICE).spec.revision == revision, after
        assert (desk.leases(), desk.host.fences.changing(), len(containers)) == ([port], set(), 1), after
        assert desk.outcome(operation).operation.state is (State.FAILED if crashes else State.SUCCEEDED), after
        if not crashes:
            assert http_status(f"http://127.0.0.1:{port}/health") == 200, after
        desk.run_command(a_stop_of())
        desk.host.services.remove(SERVICE)
