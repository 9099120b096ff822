"""Duplicate delivery: a message is only a notification; the claim decides which worker executes, and once."""

from __future__ import annotations

from fundamentals.cluster import ANY_HOST, LOADING
from lab.commands import a_start_of as start_of

from aima_core.domain.operations import Phase

SERVICE = "svc-tiny-dial"


def test_a_message_delivered_after_the_end_of_its_operation_does_nothing(host):
    outcome = host.execute(start_of(SERVICE))

    again = host.execute(outcome.operation.id)

    assert again == outcome
    assert again.operation.attempt == 1


def test_a_message_delivered_to_two_hosts_is_executed_by_the_one_that_claims_it(host, other_host):
    host.runtime.next_runs(LOADING)
    operation, outcome = host.begin(start_of(SERVICE), until=Phase.LOADING, route=ANY_HOST)

    other_host.execute(operation)

    assert other_host.containers() == []
    assert len(host.containers()) == 1
    host.cancel(operation)
    outcome.result(60)
