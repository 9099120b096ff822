"""One request for many hosts, stops that overtake stalled starts, and two API nodes with one state."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.request import urlopen

import pytest
from hosts.conftest import DIAL_IMAGE, offer_dials
from hosts.requests import (
    CPU_ROUTE,
    ended,
    finish_loading,
    names,
    ready,
    reported,
    running,
    start,
    start_one,
    stop,
    until_attempt,
    until_phase,
)
from lab.fleet_of_hosts import FleetOfHosts
from lab.servers import ApiNode

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(300)]
ALL = {"spark-01", "cpu-01", "cpu-02"}
PROMISED = 1.0
"""Seconds that a stop may take; the tests allow for a busy machine."""
ALLOWED = 10.0
ENDS_WITHIN = 10.0
"""Seconds, for a worker shutdown: three are promised."""
RESUMED_WITHIN = timedelta(seconds=10)
"""Five are promised; without its shutdown, the claim would expire after 15."""


@pytest.fixture(scope="module")
def fleet_of_this_file(fleet_of_this_file):
    offer_dials(fleet_of_this_file, far={"image": fleet_of_this_file.publish(DIAL_IMAGE, name="dial:1")})
    return fleet_of_this_file


@contextmanager
def image_forgotten(fleet: FleetOfHosts) -> Iterator[str]:
    """The reference of an image that is in the registry and on no host, during the block."""
    reference = f"{fleet.registry.address}/dial:1"
    forget(fleet, reference)  # the pulls of an earlier test may have ended after it
    try:
        yield reference
    finally:
        forget(fleet, reference)


def forget(fleet: FleetOfHosts, reference: str) -> None:
    for host in fleet.hosts:
        with host.engine.client() as client:
            if client.images.list(reference):
                client.images.remove(reference, force=True)


# Requests for several hosts -------------------------------------------------------------------------------------------


def test_one_request_starts_three_replicas_on_three_hosts(fleet):
    done = fleet.node().aima("service", "start", "svc-light-1", "--replicas", "3", "--wait")

    assert done.returncode == 0, done.stderr
    assert running(fleet) == dict.fromkeys(ALL, 1)
    assert all(host in done.stdout for host in ALL)


def test_one_request_starts_instances_on_the_hosts_it_names(fleet):
    records = ready(fleet, *(each["id"] for each in start(fleet, "svc-light-1", hosts=["cpu-01", "spark-01"])))

    assert {record["host"] for record in records} == {"cpu-01", "spark-01"}
    assert running(fleet) == {"spark-01": 1, "cpu-01": 1, "cpu-02": 0}


def test_more_replicas_than_hosts_are_refused_with_the_reasons_of_every_host(fleet):
    refused = fleet.node().aima("service", "start", "svc-vllm-glm-4.7-flash", "--replicas", "2")

    assert refused.returncode == 10
    said = " ".join(refused.stderr.split())
    assert "2 replicas were requested, and 1 live host" in said
    assert "cpu-01 and cpu-02" in said
    assert fleet.node().get("/v1/services")["items"] == []


def test_a_start_on_an_unknown_host_is_refused(fleet):
    refused = fleet.node().aima("service", "start", "svc-light-1", "--host", "cpu-01", "--host", "nowhere")

    assert refused.returncode == 15
    assert "Unknown host: nowhere." in refused.stderr
    assert not any(running(fleet).values())


def test_one_request_pulls_on_every_host_of_a_route_and_reports_each_failure(fleet):
    with image_forgotten(fleet) as image, fleet["cpu-02"].worker.reported(AIMA_HOST__IMAGES='["aima/*"]'):
        fleet.wait_live("cpu-02")

        done = fleet.node().aima("image", "pull", "--engine", "far-cpu", "--route", CPU_ROUTE, "--wait")

        assert done.returncode == 46, done.stderr
        assert "1 of 2 operations failed: cpu-02." in done.stderr
        assert "cpu-02 does not allow image" in done.stderr
        assert [host.name for host in fleet.hosts if has(fleet, host.name, image)] == ["cpu-01"]


def has(fleet: FleetOfHosts, host: str, image: str) -> bool:
    with fleet[host].engine.client() as client:
        return any(image in each.tags for each in client.images.list())


# Stop beats start -----------------------------------------------------------------------------------------------------


def test_a_stop_and_a_cancel_take_effect_at_once_while_every_slot_is_busy_with_a_stalled_pull(fleet):
    ready(fleet, start_one(fleet, "svc-light-1", hosts=["cpu-01"]))
    fleet.registry.freeze()
    stalled = [start_one(fleet, each, hosts=["cpu-01"]) for each in names(range(4), kind="far")]
    for id in stalled:
        until_phase(fleet, id, "pulling")

    began = time.monotonic()
    (stopped,) = ended(fleet, stop(fleet, "svc-light-1"))
    stop_took = time.monotonic() - began
    began = time.monotonic()
    fleet.node().post(f"/v1/operations/{stalled[0]}:cancel", {})
    (cancelled,) = ended(fleet, stalled[0])
    cancel_took = time.monotonic() - began

    print(f"promised {PROMISED} s: stopped after {stop_took:.2f} s, cancelled after {cancel_took:.2f} s")  # noqa: T201
    assert (stopped["phase"], cancelled["phase"]) == ("stopped", "cancelled")
    assert fleet["cpu-01"].engine.containers() == []
    assert {reported(fleet, id)["phase"] for id in stalled[1:]} == {"pulling"}
    assert max(stop_took, cancel_took) < ALLOWED


# Worker shutdown ------------------------------------------------------------------------------------------------------


def test_a_pull_of_a_class_start_continues_on_another_host_when_its_worker_shuts_down(fleet):
    with image_forgotten(fleet):
        fleet.registry.freeze()
        pulling = start_one(fleet, "svc-far-1", route=CPU_ROUTE)
        first = until_phase(fleet, pulling, "pulling")["host"]

        began = time.monotonic()
        assert fleet[first].worker.stop() == 0
        took = time.monotonic() - began
        fleet.wait_until(lambda: reported(fleet, pulling)["host"] not in (None, first), within=RESUMED_WITHIN)
        fleet.registry.thaw()
        (record,) = ready(fleet, pulling)
        there = {each["id"].partition("@")[2]: each["state"] for each in instances(fleet.node())}
        fleet.node().clear()

    assert took < ENDS_WITHIN
    assert {record["host"], first} == {"cpu-01", "cpu-02"}
    assert there == {record["host"]: "ready", first: "stopped"}


def test_a_loading_start_continues_on_its_host_with_the_same_container(fleet):
    loading = start_one(fleet, "svc-light-1", route=CPU_ROUTE, arguments={"load-seconds": 100})
    host = until_phase(fleet, loading, "loading")["host"]
    before = containers(fleet, host)

    fleet[host].worker.stop()
    fleet[host].worker.start()
    until_attempt(fleet, loading, 2)
    finish_loading(fleet, host)
    (record,) = ready(fleet, loading)

    assert (record["host"], record["attempt"]) == (host, 2)
    assert containers(fleet, host) == before
    assert sum(running(fleet).values()) == 1


def containers(fleet: FleetOfHosts, host: str) -> list[tuple[str, str]]:
    """Ids, and since when each runs."""
    with fleet[host].engine.client() as client:
        reported = [client.api.inspect_container(each.id) for each in client.containers.list()]
        return [(each["Id"], each["State"]["StartedAt"]) for each in reported]


# Two API nodes --------------------------------------------------------------------------------------------------------


def test_an_operation_submitted_at_one_node_is_followed_at_another_even_after_the_first_is_killed(fleet):
    first, second = fleet.nodes
    (asked,) = first.post("/v1/services/svc-light-1:start", {"arguments": {"load-seconds": 3}})["operations"]
    received = []

    with followed(second, asked["id"]) as events:
        for seq, event in events:
            received.append((seq, event))
            if event["phase"] == "loading":
                break
    second.kill()
    with followed(first, asked["id"], after=received[-1][0]) as events:
        received += list(events)

    assert [seq for seq, _ in received] == list(range(1, len(received) + 1))
    assert received[-1][1]["phase"] == "ready"
    second.start()
    assert [second.get(f"/v1/operations/{asked['id']}"), instances(second)] == [
        first.get(f"/v1/operations/{asked['id']}"),
        instances(first),
    ]


@contextmanager
def followed(node: ApiNode, operation: str, *, after: int = 0) -> Iterator[Iterator[tuple[int, Any]]]:
    """The events of an operation, with their numbers, up to its end."""
    asked = node.request(f"/v1/operations/{operation}/events")
    if after:
        asked.add_header("Last-Event-ID", str(after))
    with urlopen(asked, timeout=30) as stream:
        yield events_of(stream)


def events_of(stream: Any) -> Iterator[tuple[int, Any]]:
    fields: dict[str, str] = {}
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields and "id" in fields:
            event = json.loads(fields["data"])
            yield int(fields["id"]), event
            fields = {}


def instances(node: ApiNode) -> Any:
    return node.get("/v1/services")["items"][0]["instances"]
