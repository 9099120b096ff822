"""Feasibility: every obstacle between a host and a start, transient or permanent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from lab.commands import an_engine

from aima_core.domain.catalog import Model
from aima_core.domain.hosts import Host
from aima_core.domain.ids import ModelId, Route, ServiceId
from aima_core.domain.models import Weights
from aima_core.domain.resources import Allocation, Held, ObstacleKind, ResourceRequest, resources_of
from aima_core.scheduling.feasibility import (
    PlacementRequirements,
    bytes_to_fetch,
    describe,
    find_obstacles,
    permanent,
)

GB = 10**9
SERVICE = ServiceId("svc-vllm-qwen3-32b")
OTHER = ServiceId("svc-asr-small")
GB10 = {"kind": "gb10", "name": "NVIDIA GB10", "id": "GPU-0"}


def a_host(**facts: Any) -> Host:
    """An idle server with an amd64 CPU, 64 GB and no GPU."""
    return Host.model_validate(
        {
            "name": "box",
            "identity": "f00",
            "arch": "amd64",
            "address": "10.0.0.1",
            "cores": 8,
            "memory": 64 * GB,
            "disk_free": 500 * GB,
            "runtime": "docker",
            "runtime_version": "29",
            "ports": (20000, 20999),
            "routes": ("host.box", "cpu.amd64"),
            "version": "0",
            "live": True,
            "seen_at": datetime.now(UTC),
            **facts,
        }
    )


def a_spark(**facts: Any) -> Host:
    """A machine whose CPU and GPU share 128 GB, with a reserve of 13 GB."""
    spark = {
        "arch": "arm64",
        "accelerators": [GB10],
        "gives_gpus": True,
        "unified_memory": True,
        "memory": 128 * GB,
        "memory_reserve": 13 * GB,
        "routes": ("host.box", "gb10.arm64", "cpu.arm64"),
    }
    return a_host(**(spark | facts))


def a_server(*memory: int | None, **facts: Any) -> Host:
    """A machine with a GPU for each of these amounts of memory."""
    gpus = [{"kind": "rtx", "name": "RTX", "id": f"GPU-{at}", "memory": each} for at, each in enumerate(memory)]
    return a_host(**({"accelerators": gpus, "gives_gpus": True, "routes": ("host.box", "rtx.amd64")} | facts))


def wanted(*routes: str, image: str = "repo/name:1", **more: Any) -> PlacementRequirements:
    """A start that needs 4 GB by default."""
    beside = {name: more.pop(name) for name in ("image_size", "native", "port", "service") if name in more}
    needs = ResourceRequest(**({"memory": 4 * GB, "cores": 2} | more))
    return PlacementRequirements(
        tuple(map(Route, routes)), needs, **({"service": SERVICE, "images": (image,)} | beside)
    )


def a_load_of(memory: int, *gpus: str, loading: bool = False) -> Allocation:
    return Allocation(memory=memory * GB, gpus=gpus, loading=loading, fence=1)


def obstacles(
    host: Host, asked: PlacementRequirements, *, other: Allocation | None = None
) -> list[tuple[ObstacleKind, bool]]:
    found = find_obstacles(host, asked, Held({OTHER: other}) if other else Held())
    return [(reason.kind, reason.transient) for reason in found]


def test_an_allocation_that_replaces_another_is_counted_once_and_leaves_the_former_as_they_were() -> None:
    before = Held({SERVICE: a_load_of(10), OTHER: a_load_of(30)})

    after = before.replacing(SERVICE, a_load_of(20))

    assert (after.memory, after.memory_of_others(SERVICE), after.memory_of_others(OTHER)) == (50 * GB, 30 * GB, 20 * GB)
    assert (before.memory, before[SERVICE]) == (40 * GB, a_load_of(10))


def test_a_host_that_meets_every_requirement_has_no_obstacle() -> None:
    assert find_obstacles(a_host(), wanted("cpu.arm64", "cpu.amd64"), Held()) == []
    assert find_obstacles(a_spark(), wanted("gb10.arm64", gpus=1, gpu_memory=60 * GB), Held()) == []
    assert find_obstacles(a_server(24 * GB), wanted("rtx.amd64", gpus=1, gpu_memory=24 * GB), Held()) == []


@pytest.mark.parametrize(
    ("facts", "obstacle"),
    [
        ({"live": False}, ObstacleKind.OFFLINE),
        ({"runtime_answers": False}, ObstacleKind.DOCKER_AWAY),
        ({"drained_since": datetime.now(UTC)}, ObstacleKind.DRAINED),
        ({"disk_free": 10 * GB}, ObstacleKind.DISK),
    ],
)
def test_temporary_obstaclees_are_waited_for(facts: dict[str, Any], obstacle: ObstacleKind) -> None:
    assert obstacles(a_host(**facts), wanted("cpu.amd64", image_size=10 * GB)) == [(obstacle, True)]


@pytest.mark.parametrize(
    ("host", "asked", "obstacle"),
    [
        (a_host(), wanted("cpu.arm64"), ObstacleKind.ARCH),
        (a_host(), wanted("gb10.amd64"), ObstacleKind.ACCELERATOR),
        (a_spark(), wanted("rtx.arm64", gpus=1), ObstacleKind.ACCELERATOR),
        (a_host(), wanted(cores=9), ObstacleKind.CORES),
        (a_host(), wanted(memory=65 * GB), ObstacleKind.MEMORY),
        (a_host(memory_reserve=GB), wanted(memory=64 * GB), ObstacleKind.MEMORY),
        (a_spark(), wanted(memory=32 * GB, gpus=1, gpu_memory=90 * GB), ObstacleKind.MEMORY),
        (a_server(24 * GB), wanted(gpus=2), ObstacleKind.GPUS),
        (a_host(), wanted(gpus="all"), ObstacleKind.GPUS),
        (a_spark(gives_gpus=False), wanted(gpus=1), ObstacleKind.GPUS),
        (a_server(24 * GB, 8 * GB), wanted(gpus=1, gpu_memory=25 * GB), ObstacleKind.GPU_MEMORY),
        (a_host(allows=("docker.io/*", "local/*")), wanted(), ObstacleKind.IMAGE_NOT_ALLOWED),
        (a_host(runtime="process"), wanted(native=False), ObstacleKind.NATIVE),
        (a_host(), wanted(port=8080), ObstacleKind.PORT),
    ],
)
def test_permanent_obstaclees_are_not_waited_for(
    host: Host, asked: PlacementRequirements, obstacle: ObstacleKind
) -> None:
    assert obstacles(host, asked) == [(obstacle, False)]


def test_every_obstacle_is_reported_and_not_only_the_first() -> None:
    host = a_host(live=False, drained_since=datetime.now(UTC), memory=GB)

    reasons = find_obstacles(host, wanted("gb10.arm64"), Held())

    assert [each.kind for each in reasons] == ["offline", "drained", "arch", "memory"]
    assert [each.kind for each in permanent(reasons)] == ["arch", "memory"]
    assert describe(host, reasons[:2]) == "box: not live; drained"


def test_a_host_with_every_slot_busy_is_waited_for() -> None:
    [reason] = find_obstacles(a_host(slots=3), wanted(), Held(), busy=3)

    assert (reason.kind, reason.sentence, reason.transient) == ("slots", "all 3 start slots busy", True)
    assert find_obstacles(a_host(slots=3), wanted(), Held(), busy=2) == []


# Memory -----------------------------------------------------------------------------------------------------------


def test_allocated_memory_is_waited_for_and_the_free_memory_is_reported() -> None:
    [reason] = find_obstacles(a_host(), wanted(memory=40 * GB), Held({OTHER: a_load_of(30)}))

    assert reason.transient
    assert reason.sentence == "needs 40 GB memory (host: 34 GB free)"


def test_the_allocation_of_the_service_itself_does_not_count_against_it() -> None:
    assert find_obstacles(a_host(), wanted(memory=40 * GB), Held({SERVICE: a_load_of(40)})) == []


def test_allocations_beyond_the_memory_leave_zero_free_rather_than_less() -> None:
    [reason] = find_obstacles(a_host(), wanted(), Held({OTHER: a_load_of(80)}))

    assert reason.sentence == "needs 4 GB memory (host: 0 B free)"


def test_the_memory_reserve_is_never_allocated() -> None:
    assert obstacles(a_host(memory_reserve=60 * GB), wanted(memory=4 * GB)) == []
    assert obstacles(a_host(memory_reserve=61 * GB), wanted(memory=4 * GB)) == [(ObstacleKind.MEMORY, False)]


def test_with_shared_memory_gpu_memory_is_taken_from_the_memory_of_the_host() -> None:
    asked = wanted(memory=15 * GB, gpus=1, gpu_memory=60 * GB)

    assert obstacles(a_spark(), asked, other=a_load_of(40)) == []
    assert obstacles(a_spark(), asked, other=a_load_of(41)) == [(ObstacleKind.MEMORY, True)]
    assert obstacles(a_server(80 * GB), asked, other=a_load_of(41)) == []


# GPUs -------------------------------------------------------------------------------------------------------------


def test_allocated_gpus_are_waited_for() -> None:
    host = a_server(24 * GB, 24 * GB)

    assert obstacles(host, wanted(gpus=1), other=a_load_of(1, "GPU-0")) == []
    assert obstacles(host, wanted(gpus=2), other=a_load_of(1, "GPU-0")) == [(ObstacleKind.GPUS, True)]
    assert obstacles(host, wanted(gpus="all"), other=a_load_of(1, "GPU-0")) == [(ObstacleKind.GPUS, True)]


def test_the_memory_of_several_gpus_is_summed() -> None:
    host = a_server(24 * GB, 24 * GB)

    assert obstacles(host, wanted(gpus=2, gpu_memory=48 * GB)) == []
    assert obstacles(host, wanted(gpus=2, gpu_memory=49 * GB)) == [(ObstacleKind.GPU_MEMORY, False)]


def test_a_free_gpu_that_is_too_small_is_no_reason_to_start_before_a_bigger_one_is_free() -> None:
    host = a_server(80 * GB, 8_600_000_000)

    [found] = find_obstacles(host, wanted(gpus=1, gpu_memory=17 * GB), Held({OTHER: a_load_of(1, "GPU-0")}))

    assert (found.kind, found.transient) == (ObstacleKind.GPU_MEMORY, True)
    assert found.sentence == "needs 17 GB GPU memory (host: 8.6 GB free)"


def test_an_engine_uses_one_slice_of_a_gpu_and_never_two() -> None:
    slices = [{"kind": "rtx", "name": "A100 MIG", "id": f"MIG-{at}", "memory": 20 * GB} for at in range(2)]
    host = a_server(accelerators=slices)

    assert obstacles(host, wanted(gpus=1, gpu_memory=17 * GB)) == []
    [found] = find_obstacles(host, wanted(gpus=2, gpu_memory=17 * GB), Held())

    assert (found.kind, found.transient) == (ObstacleKind.GPUS, False)
    assert found.sentence == "needs 2 GPUs (host: 2, slices of which an engine can use one)"


def test_a_gpu_of_unknown_memory_is_left_to_the_engine() -> None:
    assert obstacles(a_server(None), wanted(gpus=1, gpu_memory=48 * GB)) == []


def test_only_one_engine_loads_at_a_time_where_memory_is_shared() -> None:
    asked = wanted(gpus=1)

    assert obstacles(a_spark(), asked, other=a_load_of(10, "GPU-0", loading=True)) == [(ObstacleKind.LOADING, True)]
    assert obstacles(a_spark(), asked, other=a_load_of(10, "GPU-0")) == []
    assert obstacles(a_spark(), asked, other=a_load_of(10, loading=True)) == []
    assert obstacles(a_spark(), wanted(), other=a_load_of(10, "GPU-0", loading=True)) == []


# Images and pulls -------------------------------------------------------------------------------------------------


def test_one_allowed_image_is_enough() -> None:
    asked = wanted()._replace(images=("elsewhere/name:1", "local/name:1"))

    assert obstacles(a_host(allows=("local/*",)), asked) == []


def test_an_allowed_image_that_is_present_needs_no_disk() -> None:
    asked = wanted(image_size=10 * GB)._replace(images=("repo/name:1", "repo/name:2"))
    here = {"disk_free": GB, "images": [{"reference": "repo/name:2", "digest": None}]}

    assert obstacles(a_host(**here), asked) == []
    assert obstacles(a_host(**here, allows=("*:1",)), asked) == [(ObstacleKind.DISK, True)]


def test_native_processes_need_no_allowed_image_and_no_disk() -> None:
    host = a_host(runtime="process", disk_free=0, allows=())

    assert obstacles(host, wanted(image_size=10 * GB)) == []


def test_a_pull_needs_neither_memory_nor_an_undrained_host() -> None:
    pull = PlacementRequirements((), ResourceRequest(), images=("repo/name:1",))
    host = a_host(drained_since=datetime.now(UTC))

    assert find_obstacles(host, pull, Held({OTHER: a_load_of(64)})) == []


def test_the_routes_of_a_named_host_do_not_matter() -> None:
    assert find_obstacles(a_host(routes=("host.box",)), wanted(), Held()) == []


def test_a_host_that_consumes_none_of_the_accepted_routes_is_reported_as_such() -> None:
    [reason] = find_obstacles(a_host(routes=("host.box",)), wanted("cpu.arm64", "cpu.amd64"), Held())

    assert reason.sentence == "needs route cpu.arm64 or cpu.amd64 (host: host.box)"


# Models on the disk -----------------------------------------------------------------------------------------------


WEIGHTS = Weights(model=ModelId("qwen3-32b"), name="abc-def", size=60 * GB)
PARTIAL = {"model": "qwen3-32b", "revision": "abc", "name": "abc-def", "size": 60 * GB, "published": False}


def a_start_with(weights: Weights = WEIGHTS) -> PlacementRequirements:
    return wanted(weights=weights)


def with_disk(*stored: dict[str, Any], **disk: int) -> Host:
    """A host with 100 GB, of which 50 GB are free and 10 GB reserved."""
    sizes = {"total": 100 * GB, "free": 50 * GB, "reserve": 10 * GB} | {name: it * GB for name, it in disk.items()}
    return a_host(stored=stored, model_disk=sizes, models=[])


def test_a_model_needs_disk_above_the_reserve_and_is_waited_for() -> None:
    [found] = find_obstacles(with_disk(), a_start_with(), Held())

    assert (found.kind, found.transient) == (ObstacleKind.DISK, True)
    assert found.sentence == "needs 60 GB of disk for the model (host: 50 GB free, 10 GB reserved)"
    assert obstacles(with_disk(free=70), a_start_with()) == []
    assert obstacles(with_disk(free=69), a_start_with()) == [(ObstacleKind.DISK, True)]


def test_a_model_that_is_larger_than_the_disk_is_not_waited_for() -> None:
    assert obstacles(with_disk(total=69), a_start_with()) == [(ObstacleKind.DISK, False)]


def test_only_the_rest_of_an_interrupted_fetch_needs_disk() -> None:
    partial = {**PARTIAL, "received": 20 * GB, "verified": False}

    assert bytes_to_fetch(with_disk(partial), WEIGHTS) == 40 * GB
    assert obstacles(with_disk(partial), a_start_with()) == []
    assert obstacles(with_disk({**partial, "name": "another"}), a_start_with()) == [(ObstacleKind.DISK, True)]


def test_what_running_fetches_have_still_to_write_is_not_free_and_counts_once_for_the_model_itself() -> None:
    running = {**PARTIAL, "received": 30 * GB, "verified": False, "fetching": True}

    [found] = find_obstacles(with_disk(free=90, awaited=30), a_start_with(), Held())

    assert found.sentence == (
        "needs 60 GB of disk for the model (host: 90 GB free, 10 GB reserved, 30 GB for running fetches)"
    )
    assert obstacles(with_disk(running, free=45, awaited=30), a_start_with()) == []


def test_a_model_that_is_there_needs_no_disk() -> None:
    there = {**PARTIAL, "received": 60 * GB, "published": True, "verified": True}
    by_hand = with_disk(free=0).model_copy(update={"models": ("qwen/32b",)})

    assert obstacles(with_disk(there, free=0), a_start_with()) == []
    assert obstacles(by_hand, a_start_with(WEIGHTS.model_copy(update={"path": "qwen"}))) == []
    assert bytes_to_fetch(with_disk({**there, "verified": False}), WEIGHTS) == 60 * GB


def test_a_worker_that_announces_no_disk_is_asked_to_fetch_as_before() -> None:
    assert obstacles(a_host(stored=[]), a_start_with()) == []
    assert obstacles(a_host(), a_start_with()) == [(ObstacleKind.MODEL, False)]


def test_the_bytes_are_unknown_while_the_model_roots_or_the_size_are() -> None:
    with_path = WEIGHTS.model_copy(update={"path": "qwen"})

    assert bytes_to_fetch(a_host(stored=[]), with_path) is None
    assert bytes_to_fetch(a_host(stored=[], models=[]), WEIGHTS.model_copy(update={"size": 0})) is None
    assert bytes_to_fetch(a_host(models=[]), with_path) is None


def test_a_pull_of_a_model_is_not_kept_waiting_for_disk() -> None:
    pull = PlacementRequirements((), ResourceRequest(weights=WEIGHTS))

    assert find_obstacles(with_disk(free=0), pull, Held()) == []


def test_a_model_of_unresolved_size_needs_the_gpu_memory_of_its_resolved_files() -> None:
    requires = {"platforms": ["linux/amd64"], "accelerator": "cuda", "gpus": 1, "gpu_memory": "1GB", "memory": "1GB"}
    entry = {"name": "Big", "type": "llm", "engines": ["tiny-test"], "source": "hf:maker/big@main"}
    unresolved, known = (Model.model_validate({**entry, "size": size}) for size in ("unresolved", "40GB"))

    assert resources_of(an_engine(requires=requires), unresolved, WEIGHTS).gpu_memory == 60 * GB
    assert resources_of(an_engine(requires=requires), unresolved).gpu_memory == GB
    assert resources_of(an_engine(requires=requires), known, WEIGHTS).gpu_memory == 40 * GB
