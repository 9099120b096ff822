"""Clock skew: TTLs and leases use the clock of Redis alone, since the clocks of hosts differ."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta

import pytest
from house.sources import MODULES, place, tree
from lab.commands import a_start_of, enqueue_signed

from aima_core.domain.ids import HostName, ServiceId
from aima_core.redis import keys
from aima_core.store.claims import Claimed, ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.ports import PortStore

ALPHA = HostName("alpha")
LOOK_AT_THE_CLOCK = {
    "aima_core/store/operations.py": "when something happened, for people; whether an order has expired",
    "aima_core/trust/orders.py": "fences: they ascend with the clocks of API nodes, which Redis cannot forge",
    "aima_core/store/hosts.py": "since when a host is drained, for people",
    "aima_api/access/keys.py": "when a key expires: the clock of Redis is not trusted for that",
    "aima_api/access/audit.py": "when something happened, for people",
    "aima_api/gateway/app.py": "when the tokens and the certificate of a gateway expire",
    "aima_api/doctor/checks.py": "when the certificate of the API expires",
    "aima_api/logs/stream.py": "which lines a follower is too late for, by the host's own times with a margin",
    "aima_api/up/app.py": "which lines of its parts are this run's",
    "aima_api/cli/tables.py": "how long ago something was, for people",
    "aima_api/routes/logs.py": "what `--since 10m` means",
    "aima_core/logs/access.py": "the time of a line",
    "aima_worker/dataplane/server.py": "when the token of a gateway expires",
    "aima_worker/logs/buffer.py": "when the last lines were stored, for people",
    "aima_worker/logs/collector.py": "which lines were said before this worker",
    "aima_worker/node/facts.py": "how far it is from Redis' own",
    "aima_worker/runtimes/docker/lifecycle.py": "what a container has said since it was begun here",
    "aima_worker/runtimes/docker/oom_kills.py": "which kills came shortly before which exits, both by this clock",
    "aima_worker/runtimes/process/files.py": "the time of a line",
    "aima_worker/runtimes/process/supervisor.py": "since when a process runs",
    "aima_worker/runtimes/fake/runtime.py": "since when a container runs",
}
"""Modules that ask this machine for the time, and what for."""


def asks_for_the_time(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and (
        (node.attr in ("now", "utcnow", "today") and ast.unparse(node.value) in ("datetime", "date"))
        or (node.attr in ("time", "time_ns") and ast.unparse(node.value) == "time")
    )


def test_no_other_module_reads_the_local_clock():
    asking = {place(path) for path in MODULES if any(map(asks_for_the_time, ast.walk(tree(path))))}

    assert asking == set(LOOK_AT_THE_CLOCK)


@pytest.mark.redis
@pytest.mark.parametrize("off", [timedelta(days=-1), timedelta(days=1)], ids=["behind", "ahead"])
def test_ttls_and_leases_ignore_the_clock_of_the_host(redis, monkeypatch, off):
    monkeypatch.setattr("aima_core.store.operations.now", lambda: datetime.now(UTC) + off)
    monkeypatch.setattr("aima_core.store.claims.now", lambda: datetime.now(UTC) + off)
    operations, hosts, ports = OperationStore(redis), HostStore(redis), PortStore(redis, ALPHA)
    ports.set_range(range(20000, 20010))
    start = enqueue_signed(operations, a_start_of())

    hosts.join(ALPHA, identity="alpha's", session="one")
    claimed = ClaimStore(redis).claim(start.id, ALPHA)
    port = ports.lease(ServiceId("svc-tiny-dial").on(ALPHA), fence=1)
    seconds, _ = redis.time()

    assert isinstance(claimed, Claimed)
    assert 0 < redis.pttl(keys.claim(start.id)) <= keys.CLAIM_TTL.total_seconds() * 1000
    assert 0 < redis.pttl(f"{keys.port_prefix(ALPHA)}{port}") <= keys.PORT_LEASE.total_seconds() * 1000
    assert redis.zscore(keys.HOSTS_SEEN, ALPHA) == pytest.approx(seconds, abs=60)
    due = redis.zscore(keys.ACTIVE, start.id) / 1000 - keys.LOOK_AFTER.total_seconds()
    assert due == pytest.approx(seconds, abs=60)
