"""Requests of multi-host tests to an API node, over HTTP because a command is slow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from lab.fleet_of_hosts import FleetOfHosts
from lab.parts import eventually

from aima_worker.node.hardware import arch

CPU_ROUTE = f"cpu.{arch()}"
"""The class route of hosts with this machine's architecture."""

Operation = dict[str, Any]


def start(fleet: FleetOfHosts, service: str, **options: Any) -> list[Operation]:
    """The operations of an accepted start."""
    operations: list[Operation] = fleet.node().post(f"/v1/services/{service}:start", options)["operations"]
    return operations


def start_one(fleet: FleetOfHosts, service: str, **options: Any) -> str:
    """Submits a start with one operation; returns its id."""
    (operation,) = start(fleet, service, **options)
    return str(operation["id"])


def stop(fleet: FleetOfHosts, service: str) -> str:
    """Submits a stop of the only instance; returns the operation's id."""
    (operation,) = fleet.node().post(f"/v1/services/{service}:stop", {"grace": "1s"})["operations"]
    return str(operation["id"])


def reported(fleet: FleetOfHosts, operation: str) -> Operation:
    record: Operation = fleet.node().get(f"/v1/operations/{operation}")
    return record


def ended(fleet: FleetOfHosts, *operations: str, within: float = 60) -> list[Operation]:
    """Their records once all have ended. Raises AssertionError after a timeout."""
    fleet.wait_until(
        lambda: all(reported(fleet, operation)["ended_at"] for operation in operations),
        within=timedelta(seconds=within),
    )
    return [reported(fleet, operation) for operation in operations]


def ready(fleet: FleetOfHosts, *operations: str, within: float = 60) -> list[Operation]:
    """The same for starts that must succeed."""
    records = ended(fleet, *operations, within=within)
    assert [(record["phase"], record.get("failure")) for record in records] == [("ready", None)] * len(records)
    return records


def until_phase(fleet: FleetOfHosts, operation: str, *phases: str, within: float = 60) -> Operation:
    """Its record in that phase. Raises AssertionError after a timeout, or if the operation ends in another one."""
    seen: list[Operation] = []

    def has_reached() -> bool:
        seen[:] = [reported(fleet, operation)]
        return seen[0]["phase"] in phases or bool(seen[0]["ended_at"])

    fleet.wait_until(has_reached, within=timedelta(seconds=within))
    (record,) = seen
    assert record["phase"] in phases, record
    return record


def until_waiting(fleet: FleetOfHosts, *operations: str, within: float = 60) -> list[str]:
    """The reason of each pending operation. Raises AssertionError, with all active operations, after a timeout."""

    def waits(record: Operation) -> bool:
        return bool(record["state"] == "queued" and record["reason"])

    def all_wait() -> bool:
        return all(waits(reported(fleet, id)) for id in operations)

    if not eventually(all_wait, within=timedelta(seconds=within)):
        astray = [record for id in operations if not waits(record := reported(fleet, id))]
        unended = [each for each in fleet.node().get("/v1/operations")["items"] if not each["ended_at"]]
        raise AssertionError(f"{astray} do not wait; under way are {unended}")
    return [str(reported(fleet, id)["reason"]) for id in operations]


def until_attempt(fleet: FleetOfHosts, operation: str, attempt: int) -> None:
    """A worker has claimed it for that time. Raises AssertionError after a timeout."""
    fleet.wait_until(lambda: bool(reported(fleet, operation)["attempt"] >= attempt))


def finish_loading(fleet: FleetOfHosts, host: str) -> None:
    """Ends the loading of the test engine in the host's only container."""
    (container,) = fleet[host].engine.containers()
    fleet[host].engine.finish_loading(container)


def running(fleet: FleetOfHosts) -> dict[str, int]:
    """The number of containers of each host."""
    return {host.name: len(host.engine.containers()) for host in fleet.hosts}


def time_of(record: Operation, what: str) -> datetime:
    return datetime.fromisoformat(record[what])


def names(numbers: Sequence[int] | range, *, kind: str) -> list[str]:
    """Ids of services of that engine type, such as `svc-light-3`."""
    return [f"svc-{kind}-{number}" for number in numbers]
