"""Listings: pages and filters, and the records of the catalog and of hosts."""

from __future__ import annotations

import pytest
from api.node import SERVICE, ScriptedWorker, as_listed

from aima_api.routes.services import ServiceStatus
from aima_core.domain.hosts import HostUsage
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.resources import Allocation
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_core.store.ports import PortStore
from aima_core.store.traffic import Traffic, TrafficStore

pytestmark = pytest.mark.redis


def test_operations_are_paged_newest_first(node, worker):
    ids = [node.start(port=20001 + number)[0]["id"] for number in range(5)]

    first = node.get("/v1/operations", params={"limit": 3}).json()
    second = node.get("/v1/operations", params={"limit": 3, "cursor": first["next"]}).json()

    assert sorted(each["id"] for each in [*first["items"], *second["items"]]) == sorted(ids)
    assert [len(first["items"]), len(second["items"]), second["next"]] == [3, 2, None]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"state": "succeeded"}, 1),
        ({"state": "queued"}, 1),
        ({"kind": "pull"}, 1),
        ({"service": SERVICE}, 1),
        ({"service": "svc-tiny-other"}, 0),
        ({"host": "alpha"}, 1),
        ({"host": "alpha", "state": "queued"}, 0),
    ],
)
def test_operations_are_filtered_by_their_fields(node, worker, asked, found):
    worker.is_ready(node.start()[0])
    node.post("/v1/images:pull", {"image": "repo/name:1"})

    assert len(node.get("/v1/operations", params=asked).json()["items"]) == found


def test_usage_is_listed_for_hosts_that_report_it_with_their_allocated_gpus(node, redis):
    gpus = [{"kind": "cuda", "name": "L4", "id": f"GPU-{number}"} for number in range(2)]
    box = ScriptedWorker(redis, "box", accelerators=gpus).name
    ScriptedWorker(redis, "old")
    AllocationStore(redis).keep(box, ServiceId(SERVICE), Allocation(memory=1, gpus=("GPU-1",), fence=1))
    used = HostUsage(host=box, at=now(), cpu=7.5, memory=1000, instances={})
    HostStore(redis).report_usage(used)

    found, without = node.get("/v1/hosts:usage").json()["items"]

    assert (found["gpus"], found["gpus_allocated"]) == (2, 1)
    assert HostUsage.model_validate(found["usage"]) == used
    assert (without["host"], without["usage"]) == ("old", None)


def test_services_are_listed_by_id_with_their_instances(node, worker):
    node.post("/v1/services", {"id": "svc-asr-sensevoicesmall"})
    worker.is_ready(node.start()[0])

    first = node.get("/v1/services", params={"limit": 1}).json()
    second = node.get("/v1/services", params={"limit": 1, "cursor": first["next"]}).json()

    assert [each["id"] for each in [*first["items"], *second["items"]]] == ["svc-asr-sensevoicesmall", SERVICE]
    assert [each["id"] for each in second["items"][0]["instances"]] == [f"{SERVICE}@alpha"]


def test_a_listing_shows_each_service_like_the_service_alone(node, redis):
    alpha, beta = ScriptedWorker(redis, "alpha"), ScriptedWorker(redis, "beta")
    alpha.is_ready(node.start("svc-tiny-dial", hosts=["alpha"])[0])
    beta.is_ready(node.start("svc-tiny-dial-b", hosts=["beta"], model="Dial")[0])
    beta.leave()

    listed = node.get("/v1/services").json()["items"]

    shown = [node.get(f"/v1/services/{each['id']}").json() for each in listed]
    assert listed == [as_listed(each) for each in shown]
    assert [[each["id"] for each in service["instances"]] for service in listed] == [
        ["svc-tiny-dial@alpha"],
        ["svc-tiny-dial-b@beta"],
    ]
    assert [service["instances"][0]["state"] for service in listed] == ["ready", "unknown"]
    assert [ServiceStatus.model_validate(each).model_dump(mode="json") for each in shown] == shown


def test_a_service_alone_has_the_traffic_of_its_instances_from_all_gateways(node, redis, worker):
    worker.is_ready(node.start()[0])
    own, other = f"{SERVICE}@alpha", f"{SERVICE}-b@alpha"
    TrafficStore(redis).publish("one", {own: Traffic(2, 30), other: Traffic(9, 9)})
    TrafficStore(redis).publish("two", {own: Traffic(1, 4)})

    shown = node.get(f"/v1/services/{SERVICE}").json()

    assert shown["traffic"] == {own: {"in_flight": 3, "per_minute": 34}}


def test_the_last_page_has_no_next_page(node):
    for id in ("svc-tiny-a", "svc-tiny-b"):
        node.post("/v1/services", {"id": id, "model": "Dial"})

    page = node.get("/v1/services", params={"limit": 2}).json()

    assert (len(page["items"]), page["next"]) == (2, None)


def test_the_catalog_is_listed_by_name(node):
    engines = [each["name"] for each in node.get("/v1/engines").json()["items"]]
    models = [each["name"] for each in node.get("/v1/models").json()["items"]]

    assert {node.get(f"/v1/engines/{name}").json()["name"] for name in engines} == set(engines) != set()
    assert {node.get(f"/v1/models/{name}").json()["name"] for name in models} == set(models) != set()


def test_hosts_are_listed_with_their_liveness(node, redis):
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta").leave()

    hosts = node.get("/v1/hosts").json()["items"]

    assert [(each["name"], each["live"]) for each in hosts] == [("alpha", True), ("beta", False)]
    assert node.get("/v1/hosts/beta").json()["live"] is False


def test_ports_are_listed_with_their_holders(node, worker, redis):
    ports = PortStore(redis, HostName("alpha"))
    ports.set_range(range(20000, 20010))
    ports.lease(ServiceId(SERVICE).on(HostName("alpha")), fence=1)

    [lease] = node.get("/v1/ports").json()["items"]

    assert (lease["host"], lease["port"], lease["holder"]) == ("alpha", 20000, f"{SERVICE}@alpha")
