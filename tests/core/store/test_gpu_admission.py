"""GPUs are granted by the claim's script as feasibility predicts: by memory, slices of a GPU, and what others hold."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lab.commands import a_start_of, enqueue_signed

from aima_core.domain.hosts import Host, device_ids
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.resources import Allocation, HostCapacity, resources_of
from aima_core.scheduling.feasibility import PlacementRequirements, find_obstacles
from aima_core.store.allocations import AllocationStore
from aima_core.store.claims import Claimed, ClaimStore, InsufficientCapacity
from aima_core.store.operations import OperationStore

pytestmark = pytest.mark.redis
GB = 10**9
OTHER = ServiceId("svc-tiny-other")
NUMBERS = count(1)

KINDS = st.sampled_from(["GPU", "MIG"])
DEVICES = st.lists(st.tuples(KINDS, st.sampled_from([None, 8 * GB, 24 * GB, 80 * GB])), max_size=4)
WANTED = st.tuples(st.sampled_from([1, 2, 3, "all"]), st.sampled_from(["1GB", "17GB", "40GB", "100GB"]))
INDEXES = st.sets(st.integers(0, 3))


def a_host(name: str, devices: list[tuple[str, int | None]], *, unified: bool) -> Host:
    gpus = [{"kind": "cuda", "name": "GPU", "id": f"{kind}-{at}", "memory": m} for at, (kind, m) in enumerate(devices)]
    facts: dict[str, Any] = {"arch": "amd64", "address": "127.0.0.1", "cores": 8, "disk_free": 10**12}
    facts |= {"runtime": "docker", "runtime_version": "29", "ports": (20000, 20999), "version": "0", "live": True}
    facts |= {"memory": 10**13, "gives_gpus": True, "accelerators": gpus, "unified_memory": unified}
    facts |= {"name": name, "identity": name, "routes": (f"host.{name}",), "seen_at": datetime.now(UTC)}
    return Host.model_validate(facts)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(devices=DEVICES, wanted=WANTED, others=INDEXES, own=INDEXES, unified=st.booleans())
@example(devices=[("GPU", 8_600_000_000)], wanted=(1, "17GB"), others=set(), own=set(), unified=False)
@example(devices=[("MIG", 24 * GB)] * 2, wanted=(2, "17GB"), others=set(), own=set(), unified=False)
@example(devices=[("GPU", 8 * GB), ("GPU", 80 * GB)], wanted=(1, "17GB"), others=set(), own={0}, unified=False)
def test_a_claim_grants_gpus_exactly_where_feasibility_finds_no_obstacle(redis, devices, wanted, others, own, unified):
    gpus, gpu_memory = wanted
    service, name = ServiceId(f"svc-tiny-g{next(NUMBERS)}"), HostName(f"h{next(NUMBERS)}")
    host = a_host(name, devices, unified=unified)
    ids, allocations = device_ids(host.accelerators), AllocationStore(redis)
    held = {OTHER: others, service: own - others}
    for each, indexes in held.items():
        granted = tuple(id for at, id in enumerate(ids) if at in indexes)
        allocations.keep(name, each, Allocation(memory=0, gpus=granted, fence=1))
    requires = {"platforms": ["linux/amd64"], "accelerator": "cuda", "gpus": gpus, "gpu_memory": gpu_memory}
    start = a_start_of(service, requires=requires | {"memory": "1GB"})
    asked = enqueue_signed(OperationStore(redis), start, host=name)
    room = HostCapacity(
        memory=host.memory,
        available=host.memory,
        gpus=ids,
        gpu_memory=tuple(gpu.memory for gpu in host.accelerators),
        unified=unified,
        slots=8,
    )

    needs = resources_of(start.engine, None)
    requirements = PlacementRequirements(routes=(), resources=needs, service=service)
    obstacles = find_obstacles(host, requirements, allocations.held(name))
    claimed = ClaimStore(redis).claim(asked.id, name, room)

    if obstacles:
        assert isinstance(claimed, InsufficientCapacity)
        assert claimed.lack in {each.kind for each in obstacles} or any(not each.transient for each in obstacles)
    else:
        assert isinstance(claimed, Claimed)
        assert len(set(claimed.gpus)) == (len(ids) if gpus == "all" else gpus)
        memory = [gpu.memory for id, gpu in zip(ids, host.accelerators, strict=True) if id in claimed.gpus]
        assert unified or None in memory or sum(filter(None, memory)) >= needs.gpu_memory
