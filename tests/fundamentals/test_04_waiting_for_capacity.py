"""Capacity: a start that no host has memory for is pending with its reason, and runs once memory is released."""

from __future__ import annotations

from fundamentals.cluster import ANY_HOST
from lab.commands import a_start_of as start_of
from lab.commands import a_stop_of as stop_of

from aima_core.domain.operations import State


def large(service: str):
    """A start of a service that takes most of a host's memory."""
    return start_of(service, requires={"platforms": ["linux/amd64", "linux/arm64"], "memory": "5GB"})


def test_a_start_without_capacity_is_pending_with_the_reason(host):
    host.execute(large("svc-tiny-first"))

    pending = host.execute(host.submit(large("svc-tiny-second"), route=ANY_HOST))

    assert pending.operation.state is State.QUEUED
    assert "alpha" in pending.operation.reason
    assert "5 GB" in pending.operation.reason
    assert len(host.containers()) == 1


def test_a_pending_start_runs_once_a_stop_has_released_the_memory(host):
    host.execute(large("svc-tiny-first"))
    pending = host.submit(large("svc-tiny-second"), route=ANY_HOST)
    host.execute(pending)

    host.execute(stop_of("svc-tiny-first"))
    outcome = host.execute(pending)

    assert outcome.operation.state is State.SUCCEEDED
    assert host.containers() == [host.container_name("svc-tiny-second")]
