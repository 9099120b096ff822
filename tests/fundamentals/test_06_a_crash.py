"""A crash: fails a start at once; an engine that was ready is restarted up to three times, then fails."""

from __future__ import annotations

from lab.commands import a_start_of as start_of

from aima_core.domain.operations import State
from aima_core.domain.services import InstanceState

SERVICE = "svc-tiny-dial"


def test_a_crash_while_loading_fails_the_start_with_its_last_log_lines_and_releases_its_port(host):
    host.runtime.crash_next(last_words="CUDA out of memory", exit_code=3)

    outcome = host.execute(start_of(SERVICE))

    assert outcome.operation.state is State.FAILED
    assert "exit code 3" in outcome.operation.failure.message
    assert "CUDA out of memory" in outcome.operation.failure.log_tail
    assert host.containers() == []
    assert host.leased_ports() == []


def test_a_ready_engine_that_crashes_is_restarted_on_its_port(host):
    before = host.execute(start_of(SERVICE)).instance
    host.runtime.end(host.container_name(SERVICE), exit_code=139)

    host.reconcile()
    restarting = host.instance(SERVICE)
    host.reconcile()

    assert restarting.state is InstanceState.RESTARTING
    assert "exit code 139" in restarting.failure.message
    assert (host.state(SERVICE), host.instance(SERVICE).port) == (InstanceState.READY, before.port)


def test_an_engine_that_keeps_crashing_fails_with_its_last_log_lines_and_releases_its_port(host, restarts):
    host.execute(start_of(SERVICE))
    for _ in range(restarts):
        host.runtime.end(host.container_name(SERVICE), exit_code=1)
        host.reconcile()
        host.reconcile()

    host.runtime.end(host.container_name(SERVICE), exit_code=1, last_words="no such shard\n")
    host.reconcile()

    failed = host.instance(SERVICE)
    assert (failed.state, failed.failure.code) == (InstanceState.FAILED, "engine_died")
    assert failed.failure.log_tail == ("no such shard",)
    assert host.containers() == []
    assert host.leased_ports() == []
