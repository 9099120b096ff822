"""A change of several instances is all or nothing, by their hosts alone: the spec becomes current with the last one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from lab.commands import SIGNING_KEY, a_start_of, a_stop_of
from lab.desk import Desk, desk_of
from lab.parts import eventually

from aima_core.domain.ids import OperationId, ServiceId
from aima_core.domain.operations import StartService, State
from aima_core.domain.services import Instance, InstanceState, Service
from aima_core.redis import keys
from aima_core.store.operations import now
from aima_core.trust.keys import SigningKey
from aima_core.trust.records import SignedService
from aima_worker.context import Timings
from aima_worker.execution.executor import execute
from aima_worker.node.hardware import arch
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.runtime import FakeRuntime

pytestmark = pytest.mark.redis
SERVICE = ServiceId("svc-tiny-dial")
CREATED = now()


class Member(NamedTuple):
    """A host, its runtime and its reconciler."""

    desk: Desk
    runtime: FakeRuntime
    loop: ReconcileLoop

    @property
    def instance(self) -> Instance | None:
        return self.desk.host.services.instance(SERVICE.on(self.desk.host.name))

    @property
    def revision(self) -> int | None:
        """Of what runs."""
        instance = self.instance
        return instance.revision if instance and self.desk.containers() else None


@pytest.fixture
def timings() -> Timings:
    return Timings(stable_after=timedelta())


@pytest.fixture
def members(settings, redis, timings, tmp_path) -> Iterator[list[Member]]:
    """alpha and beta, on one Redis."""
    with_desks = []
    for name in ("alpha", "beta"):
        host = settings.host.model_copy(update={"name": name})
        own = settings.model_copy(update={"host": host, "state_dir": tmp_path / name})
        runtime = FakeRuntime(host=name, arch=arch(), images=["tiny:1", "bad:1"])
        runtime.behaviours["bad:1"] = Behaviour(exit_code=1)
        with_desks.append((runtime, desk_of(own, redis, runtime, probe=runtime.probe, timings=timings)))
    (first, alpha), (second, beta) = with_desks
    with alpha as one, beta as other:
        yield [Member(one, first, ReconcileLoop(one.host)), Member(other, second, ReconcileLoop(other.host))]


def a_revision(number: int, **engine: Any) -> StartService:
    spec = Service(id=SERVICE, created_at=CREATED, revision=number)
    record = SignedService.of(spec, SigningKey(SIGNING_KEY)).record
    return a_start_of(**engine).model_copy(update={"spec": record})


def ask_for_change(members: list[Member], *commands: StartService) -> list[OperationId]:
    """The starts of one change, a command for each host."""
    ids = [OperationId.new() for _ in commands]
    pairs = zip(members, commands, strict=True)
    return [
        member.desk.ask(command.model_copy(update={"change": tuple(ids)}), id=id)
        for id, (member, command) in zip(ids, pairs, strict=True)
    ]


def run(members: list[Member], operations: list[OperationId]) -> None:
    for member, operation in zip(members, operations, strict=True):
        execute(member.desk.host, operation)


def settle(members: list[Member]) -> None:
    for member in members:
        member.loop.reconcile_once()


def stored(members: list[Member]) -> int:
    return members[0].desk.host.services.get(SERVICE).spec.revision


def running(members: list[Member]) -> list[int | None]:
    return [member.revision for member in members]


@pytest.fixture
def both(members):
    """Revision 1 runs on both."""
    for member in members:
        member.desk.run_command(a_revision(1))
    return members


def test_the_spec_becomes_current_with_the_last_instance_that_is_ready(both):
    operations = ask_for_change(both, a_revision(2, arguments={"n": 1}), a_revision(2, arguments={"n": 1}))

    run(both[:1], operations[:1])
    halfway = stored(both), both[0].desk.host.fences.previous(SERVICE) is not None
    run(both[1:], operations[1:])
    settle(both)

    assert halfway == (1, True)
    assert (stored(both), running(both)) == (2, [2, 2])
    assert [member.desk.host.fences.changing() for member in both] == [set(), set()]


def test_an_instance_that_fails_brings_those_back_that_were_ready_with_no_api_node(both):
    before = [member.instance.port for member in both]
    operations = ask_for_change(both, a_revision(2, arguments={"n": 1}), a_revision(2, image="bad:1"))

    run(both, operations)
    settle(both)

    assert (stored(both), running(both)) == (1, [1, 1])
    assert [member.instance.port for member in both] == before
    assert [member.desk.leases() for member in both] == [[port] for port in before]
    assert [member.desk.host.fences.changing() for member in both] == [set(), set()]


def test_while_others_start_what_ran_before_stays_reserved_and_the_ready_one_serves(both):
    operations = ask_for_change(both, a_revision(2, arguments={"n": 1}), a_revision(2, arguments={"n": 1}))

    run(both[:1], operations[:1])
    settle(both)

    assert both[0].revision == 2
    assert both[0].instance.state is InstanceState.READY
    assert both[0].desk.host.fences.previous(SERVICE).instance.revision == 1


def test_an_additional_instance_of_a_change_that_failed_is_removed_with_the_reason(members):
    alpha, beta = members
    alpha.desk.run_command(a_revision(1))
    operations = ask_for_change([beta, alpha], a_revision(2, arguments={"n": 1}), a_revision(2, image="bad:1"))

    run([beta, alpha], operations)
    settle(members)

    assert (stored(members), running(members)) == (1, [1, None])
    assert beta.instance.failure.code == "change_not_made"
    assert beta.desk.leases() == []


def test_a_host_that_was_away_while_the_change_was_made_or_failed_follows_it(both, redis):
    operations = ask_for_change(both, a_revision(2, arguments={"n": 1}), a_revision(2, arguments={"n": 1}))
    run(both, operations)

    for operation in operations:  # their records have expired
        redis.delete(keys.operation(operation))
    settle(both)

    assert (stored(both), running(both)) == (2, [2, 2])
    assert both[0].desk.host.fences.changing() == set()


def test_a_later_change_supersedes_one_that_is_half_made_and_its_failure_brings_the_first_back(both):
    half = ask_for_change(both, a_revision(2, arguments={"n": 1}), a_revision(2, arguments={"n": 1}))
    run(both[:1], half[:1])
    both[1].desk.host.operations.request_cancel(half[1])

    later = ask_for_change(both, a_revision(3, image="bad:1"), a_revision(3, arguments={"n": 3}))
    run(both, later)
    settle(both)

    assert (stored(both), running(both)) == (1, [1, 1])


def test_a_stop_ends_what_is_ready_of_a_change_and_what_ran_before(both):
    operations = ask_for_change(both, a_revision(2, arguments={"n": 1}), a_revision(2, arguments={"n": 1}))
    run(both[:1], operations[:1])

    both[0].desk.run_command(a_stop_of())
    settle(both)

    assert both[0].desk.containers() == []
    assert (both[0].desk.leases(), both[0].desk.host.fences.changing()) == ([], set())


# Moves ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["tiny:1", "bad:1"])
def test_a_moved_instance_stops_where_it_was_only_once_it_is_ready_elsewhere(members, image):
    alpha, beta = members
    alpha.desk.run_command(a_revision(1))
    start = beta.desk.ask(a_revision(1, image=image))
    stop = alpha.desk.ask(a_stop_of(), after=(start,))

    execute(alpha.desk.host, stop)
    settle(members)
    before = alpha.revision, alpha.desk.outcome(stop).operation.state
    execute(beta.desk.host, start)
    execute(alpha.desk.host, stop)
    settle(members)

    assert before == (1, State.QUEUED)
    ended = alpha.desk.outcome(stop)
    if image == "tiny:1":
        assert (running(members), ended.operation.state) == ([None, 1], State.SUCCEEDED)
    else:
        assert (running(members), ended.operation.state) == ([1, None], State.CANCELLED)
        assert ended.code == "change_not_made"
        assert eventually(lambda: alpha.runtime.probe(f"{alpha.instance.endpoint}/health") == 200)
