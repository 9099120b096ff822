"""An API node that is killed after any single write of a change leaves the service wholly old or wholly new."""

from __future__ import annotations

import pytest
from fundamentals.cluster import Api, Host
from lab.parts import eventually
from worker.operations.test_kills import Killed, Killer

from aima_api.http.schemas import StartOptions
from aima_api.submission.starts import StartRequest
from aima_core.domain.ids import OperationId, ServiceId
from aima_core.domain.services import InstanceState
from aima_core.redis.scripts import Scripts
from aima_core.trust.orders import Mandate

MOST_WRITES = 20
OLD, NEW = 18501, 18502


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    killer = Killer()
    for name in ("__call__", "each"):
        killer.counts(monkeypatch, Scripts, name)
    return killer


def test_a_change_is_wholly_made_or_wholly_undone_whatever_the_write_after_which_the_api_node_is_killed(
    api: Api, host: Host, killer: Killer
) -> None:
    starts = api.starts()
    for at in range(1, MOST_WRITES):
        service = ServiceId(f"svc-tiny-m{at}")
        host.execute(api.start(service, model="Dial", port=OLD))
        killed = False

        try:
            with killer.armed(at):
                starts.start(StartRequest(service, StartOptions(port=NEW), Mandate("test")))
        except Killed:
            killed = True
        for operation in api.operations():
            if operation["service"] == service and operation["state"] == "queued":
                host.execute(OperationId(operation["id"]))

        found, stored = host.instance(service), api.get(f"/v1/services/{service}")["port"]
        assert found.state is InstanceState.READY, at
        assert found.port == stored in (OLD, NEW), at
        assert eventually(lambda: host.leased_ports() == [host.instance(service).port]), at  # noqa: B023 called at once
        host.execute(OperationId(api.post(f"/v1/services/{service}:stop", {}).json()["operations"][0]["id"]))
        if not killed:
            break
    assert at > 3
