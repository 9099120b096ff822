"""Several services planned and started together: one snapshot, in which each counts what those before it allocate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from api.node import Node, ScriptedWorker

from aima_api.dependencies import Dependencies
from aima_api.http.schemas import ServiceOptions
from aima_api.planning import placement as placement_module
from aima_api.planning.merge import merged_service
from aima_api.planning.planner import PlannedStart, StartPlanner
from aima_api.planning.preview import Plan, PlannedOperation, PlanRequest, plan_together
from aima_api.submission.starts import StartRequest
from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.resources import Held
from aima_core.errors import AimaError
from aima_core.redis.interface import TextRedis
from aima_core.scheduling.feasibility import Obstacle, find_obstacles
from aima_core.store.allocations import AllocationStore
from aima_core.trust.orders import Mandate

pytestmark = pytest.mark.redis

GB = 10**9
LARGE: dict[str, Any] = {"model": "Dial", "resources": {"memory": "60GB"}}
BOX: dict[str, Any] = {"memory": 100 * GB, "images": [{"reference": "aima/dial:1", "digest": None}]}
GPU_SERVER: dict[str, Any] = {
    "routes": ("cuda.amd64", "cpu.amd64"),
    "accelerators": [{"kind": "cuda", "name": "L4", "id": f"GPU-{n}", "memory": 24 * GB} for n in range(2)],
    "gives_gpus": True,
    "cores": 64,
    "memory": 500 * GB,
    "disk_free": 500 * GB,
}

Specs = dict[str, dict[str, Any]]


def dependencies(node: Node) -> Dependencies:
    found = node.server.config.app.state.dependencies
    assert isinstance(found, Dependencies)
    return found


def plans(node: Node, specs: Specs) -> list[Plan | AimaError]:
    api, ids = dependencies(node), [ServiceId(each) for each in specs]
    found = api.services.placements(ids)
    services = [merged_service(None, id, ServiceOptions.model_validate(specs[id])) for id in ids]
    return plan_together(api.planner, [PlanRequest(each, found[each.id]) for each in services])


def operations_of(plan: Plan | AimaError) -> tuple[PlannedOperation, ...]:
    assert isinstance(plan, Plan), plan
    return plan.operations


def verdicts(node: Node, specs: Specs) -> list[str]:
    return [each.verdict if isinstance(each, Plan) else each.code for each in plans(node, specs)]


def start_together(node: Node, specs: Specs) -> list[dict[str, Any]]:
    given = {ServiceId(id): ServiceOptions.model_validate(spec) for id, spec in specs.items()}
    requests = [StartRequest(id, options, Mandate("tests")) for id, options in given.items()]
    started = dependencies(node).starts.start_together(requests)
    return [operation.model_dump(mode="json") for each in started for operation in each]


class CountedAllocations(AllocationStore):
    """Records which hosts were read together."""

    def __init__(self, redis: TextRedis) -> None:
        super().__init__(redis)
        self.read: list[set[HostName]] = []

    def held_on(self, hosts: Iterable[HostName]) -> dict[HostName, Held]:
        names = list(hosts)
        self.read.append(set(names))
        return super().held_on(names)


def test_starts_of_several_services_read_the_allocations_of_their_hosts_at_once(node, redis):
    services = {ServiceId(f"svc-tiny-{host}"): HostName(host) for host in ("a", "b", "c")}
    for id, host in services.items():
        worker = ScriptedWorker(redis, host)
        worker.is_ready(node.start(id, engine="dial-cpu", model="Dial", hosts=[host])[0])
        node.client.patch(f"/v1/services/{id}", json={"hosts": None})
    allocations, api = CountedAllocations(redis), dependencies(node)
    starts = replace(api.starts, planner=replace(api.planner, allocations=allocations))

    started = starts.start_each([StartRequest(id, ServiceOptions(port=20001), Mandate("tests")) for id in services])

    assert [each[0].route.host for each in started if isinstance(each, list)] == list(services.values())
    assert allocations.read == [set(services.values())]


@pytest.mark.parametrize("where", [{"hosts": ["box"]}, {"route": "cpu.amd64"}, {"replicas": 1}])
def test_the_memory_of_services_planned_together_is_counted_together(node, redis, where):
    ScriptedWorker(redis, "box", **BOX)

    found = plans(node, {"svc-tiny-a": LARGE | where, "svc-tiny-b": LARGE | where})

    assert [each.verdict for each in found if isinstance(each, Plan)] == ["starts", "waits"]
    assert "needs 60 GB memory (host: 40 GB free)" in str(found[1])


def test_a_plan_of_replicas_checks_each_host_once_until_a_start_is_counted(node, redis, monkeypatch):
    boxes = [ScriptedWorker(redis, name, **BOX).name for name in ("box-a", "box-b")]
    planner, checked = dependencies(node).planner, list[HostName]()
    a, b = (_planned(planner, ServiceId(id)) for id in ("svc-tiny-a", "svc-tiny-b"))
    placement = planner.placement()

    def check_and_record(host: Host, *args: Any) -> list[Obstacle]:
        checked.append(host.name)
        return find_obstacles(host, *args)

    monkeypatch.setattr(placement_module, "find_obstacles", check_and_record)
    targets = a.targets(placement, current=())
    before = placement.obstacles(a.requirements)
    at_first = list(checked)
    placement.reserve(targets[0], b.requirements)

    assert (sorted(at_first), before) == (boxes, {"box-a": [], "box-b": []})
    assert [bool(found) for found in placement.obstacles(a.requirements).values()] == [True, False]


def _planned(planner: StartPlanner, id: ServiceId) -> PlannedStart:
    return planner.plan(merged_service(None, id, ServiceOptions.model_validate(LARGE | {"replicas": 2})))


def test_a_service_that_waits_takes_nothing_from_the_next_one(node, redis):
    ScriptedWorker(redis, "box", **BOX)
    small = LARGE | {"resources": {"memory": "30GB"}}

    found = verdicts(node, {"svc-tiny-a": LARGE, "svc-tiny-b": LARGE, "svc-tiny-c": small})

    assert found == ["starts", "waits", "starts"]


def test_each_gpu_is_counted_for_one_service_only(node, redis):
    ScriptedWorker(redis, "box", **GPU_SERVER)
    on_a_gpu = {"engine": "llamacpp-server-cuda", "model_path": "any.gguf", "resources": {"gpus": 1}}

    found = verdicts(node, dict.fromkeys(["svc-llamacpp-a", "svc-llamacpp-b", "svc-llamacpp-c"], on_a_gpu))

    assert found == ["starts", "starts", "waits"]


def test_a_mistake_in_one_leaves_the_plans_of_the_others(node, redis):
    ScriptedWorker(redis, "box", **BOX)

    found = verdicts(node, {"svc-tiny-a": LARGE, "svc-tiny-none": {}, "svc-tiny-b": LARGE | {"hosts": ["nowhere"]}})

    assert found == ["starts", "unknown_model", "unknown_host"]


def test_services_started_together_go_where_their_plan_says(node, redis):
    for name in ("box", "other"):
        ScriptedWorker(redis, name, **BOX)
    specs = {"svc-tiny-a": LARGE, "svc-tiny-b": LARGE | {"replicas": 2}, "svc-tiny-c": LARGE | {"hosts": ["box"]}}

    planned = [(each.route, each.reason) for plan in plans(node, specs) for each in operations_of(plan)]
    started = start_together(node, specs)

    assert [(each["route"], each["reason"]) for each in started] == planned
    assert sum(each["reason"] is None for each in started) == 2


def test_one_refusal_keeps_all_that_are_started_together_from_being_written(node, redis):
    ScriptedWorker(redis, "box", **BOX)

    with pytest.raises(AimaError) as refused:
        start_together(node, {"svc-tiny-a": LARGE, "svc-tiny-none": {}})

    assert refused.value.code == "unknown_model"
    assert node.get("/v1/services").json()["items"] == []
    assert node.get("/v1/operations").json()["items"] == []
