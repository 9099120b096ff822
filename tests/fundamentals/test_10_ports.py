"""Port leases: every instance holds one port of its host's range, and no other instance gets it meanwhile."""

from __future__ import annotations

from lab.commands import a_start_of as start_of
from lab.commands import a_stop_of as stop_of

from aima_core.domain.operations import State


def test_two_services_on_a_host_lease_two_ports(host):
    first = host.execute(start_of("svc-tiny-first")).instance

    second = host.execute(start_of("svc-tiny-second")).instance

    assert first.port != second.port
    assert sorted(host.leased_ports()) == sorted([first.port, second.port])


def test_a_restarted_service_gets_its_port_again(host):
    before = host.execute(start_of("svc-tiny-first")).instance
    host.execute(stop_of("svc-tiny-first"))

    after = host.execute(start_of("svc-tiny-first")).instance

    assert after.port == before.port


def test_a_port_that_another_service_leases_is_refused_with_the_holder_named(host):
    held = host.execute(start_of("svc-tiny-first")).instance

    outcome = host.execute(start_of("svc-tiny-second", port=held.port))

    assert outcome.operation.state is State.FAILED
    assert outcome.code == "port_taken"
    assert "svc-tiny-first" in outcome.operation.failure.message
