"""A start is placed where its engine can run, is pending with the reason without capacity, and then runs by itself."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psutil
import pytest
from engines.conftest import build_image
from hosts.conftest import OTHER_WEIGHTS, VLLM, WEIGHTS, dial_in_place, offer_dials, on_any_cpu
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
    time_of,
    until_phase,
    until_waiting,
)
from lab.fleet_of_hosts import FleetOfHosts
from lab.parts import eventually

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(300)]
LLM = "svc-vllm-glm-4.7-flash"
OTHERS_OF_THE_PROFILE = "svc-asr-sensevoicesmall", "svc-tts-qwen3-tts-0.6b"
MB = 1_000_000
WAITERS_BEGIN_WITHIN = 8.0
"""Seconds after capacity was freed."""


@pytest.fixture(scope="module")
def fleet_of_this_file(fleet_of_this_file):
    offer_dials(
        fleet_of_this_file,
        greedy={"limits": {"memory": "4GB"}},
        giant={"image": "elsewhere/giant:1", "image_size": "90TB", "requires": on_any_cpu(memory="3.9GB")},
    )
    fleet_of_this_file.offer_all(*((name, dial_in_place()) for name in ("funasr-sensevoice-cpu", "qwen-tts-cpu")))
    return fleet_of_this_file


def container_on(fleet: FleetOfHosts, host: str) -> dict:
    """The inspection of the host's only container."""
    (name,) = fleet[host].engine.containers()
    with fleet[host].engine.client() as client:
        return client.api.inspect_container(name)


# GPU hosts ------------------------------------------------------------------------------------------------------------


def test_a_gpu_model_starts_on_the_gb10_with_a_gpu_and_its_weights(fleet, weights):
    done = fleet.node().aima("service", "start", LLM, "--wait")

    assert done.returncode == 0, done.stderr
    container = container_on(fleet, "spark-01")
    (request,) = container["HostConfig"]["DeviceRequests"]
    assert request["Capabilities"] == [["gpu"]]
    assert request["DeviceIDs"] == ["0"]
    (mount,) = container["Mounts"]
    assert (mount["Source"], mount["Destination"], mount["RW"]) == (str(weights), "/models", False)
    assert running(fleet) == {"spark-01": 1, "cpu-01": 0, "cpu-02": 0}


def test_a_model_for_an_offline_gb10_is_pending_with_the_reason_and_starts_when_it_joins(fleet):
    fleet["spark-01"].worker.stop()

    waits = start_one(fleet, LLM)

    shown = fleet.node().aima("operation", "show", waits).stdout
    assert "No live host listens to gb10.arm64; it starts when one joins." in " ".join(shown.split())
    assert not eventually(lambda: any(running(fleet).values()), within=timedelta(seconds=2))
    assert reported(fleet, waits)["state"] == "queued"

    fleet["spark-01"].worker.start()

    (record,) = ready(fleet, waits)
    assert record["host"] == "spark-01"
    assert running(fleet) == {"spark-01": 1, "cpu-01": 0, "cpu-02": 0}


def test_two_models_load_one_after_another_where_cpu_and_gpu_share_memory(fleet):
    model = {"engine": VLLM, "model_path": WEIGHTS}
    loads = start_one(fleet, "svc-vllm-1", **model, arguments={"load-seconds": 100})
    until_phase(fleet, loads, "loading")
    (waits,) = start(fleet, "svc-vllm-2", **model)
    finish_loading(fleet, "spark-01")

    first, second = ready(fleet, loads, waits["id"])

    assert "spark-01: loading another model" in waits["reason"]
    assert 0 <= (time_of(second, "started_at") - time_of(first, "ended_at")).total_seconds() < WAITERS_BEGIN_WITHIN
    third = start_one(fleet, "svc-vllm-3", **model)
    (reason,) = until_waiting(fleet, third)
    assert "spark-01: needs 48 GB memory (host: 19.2 GB free)" in reason


def test_the_gb10_profile_brings_up_its_three_services_side_by_side_within_its_memory(fleet):
    node = fleet.node()

    applied = node.aima("profile", "apply", "nvidia-gb10", "--wait")

    assert applied.returncode == 0, applied.stderr
    succeeded = [line for line in applied.stdout.splitlines() if line.startswith("✓")]
    assert {line.split()[1] for line in succeeded} == {LLM, *OTHERS_OF_THE_PROFILE}
    hosts = {each["id"]: each["instances"][0]["host"] for each in node.record("service", "list")}
    assert hosts == dict.fromkeys([LLM, *OTHERS_OF_THE_PROFILE], "spark-01")
    models = {each["name"]: each["files"] for each in node.record("model", "list")}
    assert [models[name] for name in (WEIGHTS, *OTHER_WEIGHTS)] == [["spark-01"]] * 3
    again = node.aima("profile", "apply", "nvidia-gb10", "--wait")
    assert (again.returncode, again.stderr) == (0, "Unchanged: it runs as asked.\n")


# CPU hosts ------------------------------------------------------------------------------------------------------------


def test_speech_engines_start_on_cpu_hosts_and_answer(fleet):
    for image in ("aima/pocketsphinx:1", "aima/espeak:1"):
        build_image(image)
        fleet.take(image, "cpu-01", "cpu-02")

    hears = start_one(fleet, "svc-asr-pocketsphinx-en-us", route=CPU_ROUTE)
    speaks = start_one(fleet, "svc-tts-espeak-en", route=CPU_ROUTE)

    assert {record["host"] for record in ready(fleet, hears, speaks)} <= {"cpu-01", "cpu-02"}
    assert running(fleet)["spark-01"] == 0


def test_without_a_route_a_cpu_engine_takes_no_gpu(fleet):
    (record,) = ready(fleet, start_one(fleet, "svc-light-1"))

    assert record["route"].startswith("cpu.")
    assert not container_on(fleet, record["host"])["HostConfig"]["DeviceRequests"]


def test_many_starts_are_distributed_over_the_hosts_of_their_class(fleet):
    services = names(range(6), kind="light")

    records = ready(
        fleet, *(start_one(fleet, each, route=CPU_ROUTE, arguments={"load-seconds": 1}) for each in services)
    )

    share = {host: sum(record["host"] == host for record in records) for host in ("cpu-01", "cpu-02")}
    assert sum(share.values()) == 6
    assert min(share.values()) >= 1
    assert running(fleet) == {"spark-01": 0, **share}


# Pending starts -------------------------------------------------------------------------------------------------------


def test_of_several_starts_that_need_over_half_a_host_each_host_runs_one_and_keeps_its_reserve(fleet):
    services = names(range(8), kind="heavy")

    with ThreadPoolExecutor(8) as pool:
        operations = list(pool.map(lambda each: start_one(fleet, each, route=CPU_ROUTE), services))
    fleet.wait_until(lambda: sum(reported(fleet, id)["phase"] == "ready" for id in operations) == 2)
    reasons = until_waiting(fleet, *(id for id in operations if reported(fleet, id)["state"] == "queued"))

    assert len(reasons) == 6
    assert running(fleet) == {"spark-01": 0, "cpu-01": 1, "cpu-02": 1}
    assert "cpu-01 and cpu-02: needs 2 GB memory (host: 1.8 GB free)" in reasons[0]


def test_a_start_that_is_pending_for_memory_runs_once_another_service_is_stopped(fleet):
    first, second, third = names(range(3), kind="heavy")
    ready(fleet, start_one(fleet, first, route=CPU_ROUTE), start_one(fleet, second, route=CPU_ROUTE))
    waits = start_one(fleet, third, route=CPU_ROUTE)
    (reason,) = until_waiting(fleet, waits)
    assert "cpu-01 and cpu-02: needs 2 GB memory (host: 1.8 GB free)" in reason

    (stopped,) = ended(fleet, stop(fleet, first))
    (record,) = ready(fleet, waits)

    took = (time_of(record, "started_at") - time_of(stopped, "ended_at")).total_seconds()
    assert took < WAITERS_BEGIN_WITHIN
    print(f"began {took * 1000:.0f} ms after there was room")  # noqa: T201


def test_a_start_is_pending_while_every_slot_is_busy_and_runs_once_one_is_free(fleet):
    busy = [
        start_one(fleet, each, hosts=[host], arguments={"load-seconds": 110})
        for host in ("cpu-01", "cpu-02")
        for each in names(range(4), kind=f"light-{host}")
    ]
    for id in busy:
        until_phase(fleet, id, "loading")

    waits = start_one(fleet, "svc-light-waits", route=CPU_ROUTE)
    (reason,) = until_waiting(fleet, waits)
    assert re.search(r"cpu-01 and cpu-02: all 4 start slots busy", reason), reason
    assert reported(fleet, waits)["host"] is None

    fleet.node().post(f"/v1/operations/{busy[0]}:cancel", {})

    (cancelled,) = ended(fleet, busy[0])
    (record,) = ready(fleet, waits)
    took = (time_of(record, "started_at") - time_of(cancelled, "ended_at")).total_seconds()
    assert took < WAITERS_BEGIN_WITHIN


# Plans ----------------------------------------------------------------------------------------------------------------


def test_a_plan_gives_the_reasons_of_every_ineligible_host_and_changes_nothing(fleet):
    with fleet["cpu-02"].worker.reported(AIMA_HOST__IMAGES='["local/*"]'):
        fleet.wait_until(lambda: fleet.node().get("/v1/hosts/cpu-02")["allows"] == ["local/*"])
        fleet["cpu-02"].worker.stop()
        fleet.node().post("/v1/hosts/spark-01:drain", {})
        before = everything(fleet)

        for_the_gpu = fleet.node().aima("plan", LLM, "-o", "json")
        giant = fleet.node().aima("plan", "svc-giant-1")

        assert for_the_gpu.returncode == 87
        assert why_not(for_the_gpu.stdout) == {
            "cpu-01": ["arch", "cores", "memory", "gpus"],
            "cpu-02": ["offline", "arch", "cores", "image_not_allowed", "memory", "gpus"],
            "spark-01": ["drained"],
        }
        assert giant.returncode == 87
        said = " ".join(giant.stdout.split())
        assert "3.9 GB memory (host: 3.8 GB)" in said
        assert "108 TB of disk for the image (host: " in said
        assert "does not allow the image elsewhere/giant:1" in said
        assert "not live" in said
        assert everything(fleet) == before
    fleet.wait_until(lambda: fleet.node().get("/v1/hosts/cpu-02")["allows"] == ["*"])


def why_not(plan: str) -> dict[str, list[str]]:
    """Without the disk for the model, which this machine may have."""
    hosts = json.loads(plan)["hosts"]
    return {
        host["host"]: [why for reason in host["why_not"] if (why := reason["obstacle"]) != "disk"] for host in hosts
    }


def everything(fleet: FleetOfHosts) -> list[object]:
    records = [fleet.node().get(f"/v1/{what}") for what in ("services", "operations", "ports")]
    return [*records, running(fleet)]


# Memory floor ---------------------------------------------------------------------------------------------------------


def test_a_loading_engine_that_takes_its_host_below_the_memory_floor_is_killed(fleet):
    floor = psutil.virtual_memory().available // MB - 1500  # of which other tests use some meanwhile
    with fleet["cpu-02"].worker.reported(AIMA_HOST__MEMORY_FLOOR=f"{floor}MB"):
        fleet.wait_live("cpu-02")
        eats = {"load-seconds": 60, "memory": 3500}

        (record,) = ended(fleet, start_one(fleet, "svc-greedy-1", hosts=["cpu-02"], arguments=eats))

        assert record["failure"]["code"] == "host_memory_floor"
        assert "cpu-02 had" in record["failure"]["message"]
        assert not any(running(fleet).values())
