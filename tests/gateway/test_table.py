"""The routing table: only what serves, kept through outages and losses of Redis, and never another model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aima_api.access.aliases import Alias
from aima_api.gateway.reach import Direct
from aima_api.gateway.table import RoutingRecords, Table
from aima_core.domain.ids import InstanceId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import BrokerUnavailable, ModelNotFound, NoInstanceReady

AT = datetime(2026, 11, 28, tzinfo=UTC)
KEPT = timedelta(minutes=5)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def table(clock):
    return Table(lambda instance: Direct(instance.endpoint), keep_for=KEPT, clock=clock)


def instance(id: str = "svc-tiny-dial@alpha", **having) -> Instance:
    state = {"desired": Desired.RUNNING, "state": InstanceState.READY, "serving": True, "serves": ("chat",)}
    return Instance(
        **{"id": InstanceId(id), "fence": 1, "since": AT, "endpoint": f"http://{id[-5:]}:1", **state, **having}
    )


def listing(*instances: Instance, epoch: str | None = "one", live=("alpha",), aliases=()) -> RoutingRecords:
    return RoutingRecords(epoch, instances, frozenset(live), aliases)


def served(table: Table) -> list[str]:
    return [backend.instance for backend in table.backends]


@pytest.mark.parametrize(
    "having",
    [
        {"serving": False},
        {"desired": Desired.STOPPED},
        {"serving": False, "state": InstanceState.UNHEALTHY},
    ],
    ids=str,
)
def test_an_instance_that_does_not_serve_is_not_routed_to(table, having):
    table.replace(listing(instance()))
    table.replace(listing(instance(**having)))

    assert served(table) == []


def test_requests_in_flight_are_remembered_while_it_is_away(table):
    table.replace(listing(instance()))
    (backend,) = table.backends
    backend.in_flight = 1
    table.replace(listing(instance(serving=False)))
    assert backend.leaving

    table.replace(listing(instance()))

    assert table.backends == [backend]
    assert not backend.leaving


def test_another_start_is_another_engine_with_a_slow_start(table, clock):
    table.replace(listing(instance()))
    (before,) = table.backends
    clock.now = 50.0
    table.replace(listing(instance(since=AT + timedelta(seconds=1))))
    (after,) = table.backends

    assert (after is before, before.leaving, after.since) == (False, True, 50.0)


def test_a_lost_data_set_takes_no_instance_away_for_a_while(table, clock):
    table.replace(listing(instance()))

    table.replace(listing(epoch=None))
    table.replace(listing(epoch="two"))
    assert served(table) == ["svc-tiny-dial@alpha"]

    clock.now = KEPT.total_seconds() + 1
    table.replace(listing(epoch="two"))
    table.replace(listing(epoch="two"))
    assert served(table) == []


def test_restored_records_count_in_a_new_data_set(table):
    table.replace(listing(instance()))
    table.replace(listing(instance(serving=False), epoch="two"))

    assert served(table) == []


def test_a_silent_host_is_noted(table):
    table.replace(listing(instance(), live=()))

    assert not table.backends[0].live


def test_names_lead_to_services(table):
    alias = Alias(name="gpt", targets={"svc-tiny-dial": 1}, fallback=("svc-other-dial",), changed_at=AT, changed_by="x")
    table.replace(listing(instance(), instance("svc-other-dial@alpha"), aliases=(alias,)))

    assert table.names() == ["dial", "gpt", "svc-other-dial", "svc-tiny-dial"]
    assert table.route("gpt").pools == (("svc-tiny-dial",), ("svc-other-dial",))
    assert table.route("svc-tiny-dial").pools == (("svc-tiny-dial",),)
    assert table.route("DIAL").pools == (("svc-other-dial", "svc-tiny-dial"),)


def test_an_unknown_model_is_never_another_one(table):
    table.replace(listing(instance()))

    with pytest.raises(ModelNotFound, match="dail"):
        table.route("dail")


def test_a_model_that_starts_is_to_be_tried_again(table):
    table.replace(listing(instance(serving=False, state=InstanceState.STARTING)))

    with pytest.raises(NoInstanceReady, match="starting on alpha"):
        table.route("dial")


def test_before_the_first_reading_nothing_is_known(table):
    with pytest.raises(BrokerUnavailable):
        table.route("dial")
