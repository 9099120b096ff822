"""A plan is the truth: executed, it changes exactly the containers that it names."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from fundamentals.cluster import Api, Host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aima_core.domain.ids import HostName, OperationId

NUMBERS = count(1)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "port": st.sampled_from([None, 18503, 18504]),
        "arguments": st.sampled_from([{"flood": 1}, {"flood": None}, {"memory": 2}]),
        "resources": st.sampled_from([{"memory": "20MB"}, None, {"memory": "900GB"}]),
        "limits": st.sampled_from([{"pids": 32}, None]),
        "health": st.sampled_from([{"timeout": "9s"}, None]),
        "labels": st.sampled_from([{"team": "speech"}, None]),
        "priority": st.sampled_from([0, 3]),
        "hosts": st.sampled_from([["alpha"], ["beta"], ["alpha", "beta"], None]),
    },
)


def ids(hosts: dict[HostName, Host], service: str) -> dict[HostName, str | None]:
    found = {name: host.container(service) for name, host in hosts.items()}
    return {name: container and container.id for name, container in found.items()}


def execute(api: Api, hosts: dict[HostName, Host], operations: list[dict[str, Any]]) -> None:
    for operation in sorted(operations, key=lambda each: each["fence"]):
        name = HostName(operation["route"].removeprefix("host."))
        host = hosts.get(name) or next(iter(hosts.values()))
        host.execute(OperationId(operation["id"]))


def assert_as_planned(
    instance: dict[str, Any], before: dict[HostName, str | None], after: dict[HostName, str | None]
) -> None:
    action, host = instance["action"], instance["host"]
    if host is None:
        assert action in ("create", "refused"), instance
        return
    was, is_now = before[host], after[host]
    if action == "unchanged":
        assert is_now == was is not None, instance
    elif action == "stop":
        assert (was is not None, is_now) == (True, None), instance
    elif action in ("create", "move"):
        assert (was, is_now is not None) == (None, True), instance
    elif action == "recreate":
        assert None not in (was, is_now), instance
        assert was != is_now, instance
        assert instance["fields"], instance
    if instance["moved_from"]:
        assert after[instance["moved_from"]] is None, instance


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@examples(10)
@given(changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_containers_change_exactly_as_planned(
    api: Api, host: Host, other_host: Host, changes: list[dict[str, Any]]
) -> None:
    assert_changed_as_planned(api, host, other_host, changes)


@pytest.mark.long
@examples(100)
@given(changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_containers_change_exactly_as_planned_for_many_changes(
    api: Api, host: Host, other_host: Host, changes: list[dict[str, Any]]
) -> None:
    assert_changed_as_planned(api, host, other_host, changes)


def assert_changed_as_planned(api: Api, host: Host, other_host: Host, changes: list[dict[str, Any]]) -> None:
    service, hosts = f"svc-tiny-m{next(NUMBERS)}", {host.name: host, other_host.name: other_host}
    for change in ({"model": "Dial"}, *changes):
        for each in hosts.values():
            each.beat()
        before = ids(hosts, service)
        planned = api.post(f"/v1/services/{service}:plan", change).json()

        reply = api.post(f"/v1/services/{service}:start", change)

        assert reply.is_success == (planned["verdict"] != "refused"), (planned, reply.text)
        execute(api, hosts, reply.json().get("operations", []))
        after = ids(hosts, service)
        named = [each["host"] for each in planned["instances"]]
        for instance in planned["instances"]:
            assert_as_planned(instance, before, after)
        others = {name for name in hosts if name not in named} if None not in named else set()
        moved = {each["moved_from"] for each in planned["instances"]}
        assert {name: after[name] for name in others - moved} == {name: before[name] for name in others - moved}

    execute(api, hosts, api.post(f"/v1/services/{service}:stop", {}).json()["operations"])
    assert set(ids(hosts, service).values()) == {None}
