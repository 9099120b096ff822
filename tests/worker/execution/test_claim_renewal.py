"""Claims are renewed while their operations run; an error of one renewal does not end the loop."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.commands import a_start_of
from lab.parts import eventually

from aima_core.domain.operations import Phase, State
from aima_core.errors import BrokerUnavailable
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis
LOADS = Behaviour(loads_for=timedelta(minutes=1))


@pytest.fixture
def renewals(desk, monkeypatch):
    """The ids renewed so far; `failing` maps an id to the errors that its next renewals raise."""

    class Renewals(list):
        def __init__(self):
            self.failing = {}

    renewed, renew = Renewals(), desk.host.claim_store.renew

    def counted(id, *rest):
        if errors := renewed.failing.get(id):
            raise errors.pop(0)
        renewed.append(id)
        return renew(id, *rest)

    monkeypatch.setattr(desk.host.claim_store, "renew", counted)
    return renewed


def loading(desk, runtime, service="svc-tiny-dial"):
    runtime.next_runs(LOADS)
    id, end = desk.begin(a_start_of(service))
    desk.until_phase(id, Phase.LOADING)
    return id, end


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), BrokerUnavailable(detail="frozen")], ids=type)
def test_after_a_failed_renewal_the_next_pass_renews_the_claim(desk, runtime, renewals, error):
    id, end = loading(desk, runtime)
    renewals.failing[id] = [error]
    assert eventually(lambda: not renewals.failing[id])
    renewals.clear()

    assert eventually(lambda: id in renewals)
    desk.host.operations.request_cancel(id)
    assert end.result(5).operation.state is State.CANCELLED


def test_a_claim_whose_renewal_fails_does_not_keep_others_from_renewal(desk, runtime, renewals):
    (broken, first), (other, second) = (loading(desk, runtime, f"svc-tiny-{name}") for name in ("a", "b"))
    renewals.failing[broken] = [ZeroDivisionError("a bug")] * 100
    renewals.clear()

    assert eventually(lambda: renewals.count(other) > 1)
    assert broken not in renewals
    renewals.failing.clear()
    for id, end in ((broken, first), (other, second)):
        desk.host.operations.request_cancel(id)
        assert end.result(5).operation.state is State.CANCELLED


def test_nothing_is_renewed_while_no_operation_runs(desk, renewals):
    desk.run_command(a_start_of())
    renewals.clear()

    assert not eventually(lambda: len(renewals) > 0, within=timedelta(seconds=1.2))
