"""A host is forgotten and returns: its containers are adopted again, and none is removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lab.api_process import ApiProcess
from lab.fleet import UP_WITHIN, Fleet, FleetProcess, fake_hosts
from lab.keyspace import odd_keys
from lab.parts import eventually
from lab.redis_server import RedisServer

from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.operations import OperationStore

pytestmark = pytest.mark.redis

SERVICE = "svc-fleet-one"
HOST = "fake-000"
OTHER = "fake-001"


def cut_off(process: FleetProcess) -> Callable[[], None]:
    """Partitions the host; returns a function that reconnects the same worker."""
    process.freeze()
    return process.thaw


def killed(process: FleetProcess) -> Callable[[], None]:
    """Kills the host; returns a function that starts another worker."""
    process.kill()
    return process.start


@pytest.mark.parametrize("gone", [cut_off, killed])
def test_the_container_of_a_forgotten_host_is_adopted_again_and_never_removed(
    own_redis: RedisServer, kept_fleet: Fleet, api: ApiProcess, gone: Callable[[FleetProcess], Callable[[], None]]
) -> None:
    kept_fleet.up(fake_hosts(2), processes=2)
    redis = command_link(own_redis.url)
    operations = OperationStore(redis)
    api.start(SERVICE, hosts=[HOST])
    assert eventually(lambda: not operations.active(), within=UP_WITHIN)
    before, process = kept_fleet.process_of(HOST).running(), kept_fleet.process_of(HOST)

    come_back = gone(process)
    redis.zadd(keys.HOSTS_SEEN, {HOST: redis.time()[0] - keys.HOST_DEAD.total_seconds()})
    api.start("svc-fleet-two", hosts=[HOST])
    forgotten = api.client.delete(f"/v1/hosts/{HOST}")
    with own_redis.client() as client:
        left = [key for key in client.scan_iter() if HOST in key]
        odd = odd_keys(client)
    removed = api.client.delete("/v1/services/svc-fleet-two")
    come_back()

    assert forgotten.status_code == 204, forgotten.text
    assert (left, odd) == ([], [])
    assert removed.status_code == 204, removed.text
    assert eventually(lambda: is_ready_again(api), within=UP_WITHIN), process.log()
    assert process.running() == before == {HOST: [f"fleet.{SERVICE}.{HOST}"]}
    assert process.made() == {f"fleet.{SERVICE}.{HOST}": 1}
    assert [port["holder"] for port in api.all("ports")] == [f"{SERVICE}@{HOST}"]
    assert works(api, operations)


def is_ready_again(api: ApiProcess) -> bool:
    live = {host["name"] for host in api.client.get("/v1/hosts").json()["items"] if host["live"]}
    instances = api.client.get(f"/v1/services/{SERVICE}").json()["instances"]
    return live == {HOST, OTHER} and [(each["id"], each["state"]) for each in instances] == [
        (f"{SERVICE}@{HOST}", "ready")
    ]


def works(api: ApiProcess, operations: OperationStore) -> bool:
    """Whether the host executes starts and stops as before."""
    [start] = api.start("svc-fleet-two", hosts=[HOST])
    [stop] = api.stop(SERVICE)
    return eventually(lambda: not operations.active(), within=UP_WITHIN) and [
        api.client.get(f"/v1/operations/{each['id']}").json()["state"] for each in (start, stop)
    ] == ["succeeded", "succeeded"]
