"""Failover: the work of a host without heartbeats continues on another; its own copy stops when it is back."""

from __future__ import annotations

SERVICE = "svc-tiny-dial"


def submitted_by_failover(api, *, after: str) -> list[str]:
    """The stop of the lost copy and the start of the new one."""
    later = [each for each in api.operations() if each["id"] != after]
    return [each["id"] for each in sorted(later, key=lambda each: each["fence"])]


def test_a_service_of_a_lost_host_is_started_on_another(api, host, other_host):
    first = api.start(SERVICE, model="Dial")
    host.execute(first)
    host.fall_silent()

    api.run_controllers()

    stop, start = submitted_by_failover(api, after=first)
    other_host.execute(start)
    assert len(other_host.containers()) == 1
    assert api.operation(start)["state"] == "succeeded"
    assert api.operation(stop)["state"] == "queued"


def test_the_copy_of_a_host_that_returns_is_stopped_and_the_newer_one_stays(api, host, other_host):
    first = api.start(SERVICE, model="Dial")
    host.execute(first)
    host.fall_silent()
    api.run_controllers()
    stop, start = submitted_by_failover(api, after=first)
    other_host.execute(start)

    host.join()
    host.execute(stop)

    assert host.containers() == []
    assert len(other_host.containers()) == 1


def test_a_start_for_a_host_that_is_away_runs_there_once_it_is_back(api, host):
    host.execute(api.start(SERVICE, model="Dial"))
    host.fall_silent()
    again = api.start(SERVICE, arguments={"flood": 1})
    (stop,) = [each["id"] for each in api.operations() if each["kind"] == "stop"]

    host.join()
    host.execute(stop)
    host.execute(again)

    assert api.operation(again)["state"] == "succeeded"
    assert len(host.containers()) == 1
