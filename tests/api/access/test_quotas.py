"""Quotas of keys: requests in a minute and at once, each key by its own, in bounded memory."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta

import pytest
from api.access.guarded import Clock
from hypothesis import given
from hypothesis import strategies as st

from aima_api.access.keys import ApiKey
from aima_api.access.quotas import Quotas
from aima_api.access.scopes import Scope
from aima_core.errors import KeyBusy, KeyRateExceeded
from aima_core.store.operations import now


def a_key(
    id: str = "one", *, models: tuple[str, ...] = (), minute: int | None = None, at_once: int | None = None
) -> ApiKey:
    return ApiKey(
        id=id,
        name=f"key {id}",
        scopes=(Scope.INFER,),
        models=models,
        requests_per_minute=minute,
        concurrent_requests=at_once,
        created_at=now(),
        created_by="the test",
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def quotas(clock):
    return Quotas(clock=clock)


def test_a_key_without_quotas_is_always_admitted(quotas):
    with ExitStack() as open_requests:
        for _ in range(1000):
            open_requests.enter_context(quotas.admit(a_key()))

        assert quotas.in_flight("one") == 1000


def test_a_key_gets_its_requests_of_a_minute_at_once_and_then_at_their_rate(quotas, clock):
    key = a_key(minute=60)
    for _ in range(60):
        with quotas.admit(key):
            pass

    with pytest.raises(KeyRateExceeded) as refused, quotas.admit(key):
        pass
    clock.advance(timedelta(seconds=1))
    with quotas.admit(key):
        pass

    assert refused.value.status == 429
    assert refused.value.facts["wait"] == 1
    assert "key one" in str(refused.value)
    assert "60 requests" in str(refused.value)


def test_the_wait_of_a_slow_key_is_as_long_as_its_next_token_takes(quotas):
    key = a_key(minute=2)
    for _ in range(2):
        with quotas.admit(key):
            pass

    with pytest.raises(KeyRateExceeded) as refused, quotas.admit(key):
        pass

    assert refused.value.facts["wait"] == 30


def test_a_key_has_at_most_its_number_of_requests_at_once(quotas):
    key = a_key(at_once=2)
    with quotas.admit(key), quotas.admit(key):
        with pytest.raises(KeyBusy) as refused, quotas.admit(key):
            pass
        assert quotas.in_flight("one") == 2

    with quotas.admit(key), quotas.admit(key):
        pass

    assert (refused.value.status, refused.value.facts["most"]) == (429, 2)


def test_a_request_that_fails_is_no_longer_in_flight(quotas):
    key = a_key(at_once=1)

    for _ in range(3):
        with pytest.raises(ZeroDivisionError), quotas.admit(key):
            raise ZeroDivisionError

    assert quotas.in_flight("one") == 0


def test_a_request_refused_for_those_at_once_takes_no_token_of_the_minute(quotas):
    key = a_key(minute=2, at_once=1)
    with quotas.admit(key):
        for _ in range(5):
            with pytest.raises(KeyBusy), quotas.admit(key):
                pass

    with quotas.admit(key):
        pass


def test_the_quota_of_one_key_is_not_used_up_by_another(quotas):
    one, other = a_key("one", minute=1, at_once=1), a_key("other", minute=1, at_once=1)

    with quotas.admit(one), quotas.admit(other):
        assert (quotas.in_flight("one"), quotas.in_flight("other")) == (1, 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_counts_never_leak_whatever_begins_and_ends_in_which_order(steps):
    quotas, open_requests = Quotas(clock=Clock()), dict[str, list[ExitStack]]()
    for id, begins in steps:
        running = open_requests.setdefault(id, [])
        if begins:
            request = ExitStack()
            try:
                request.enter_context(quotas.admit(a_key(id, at_once=3)))
            except KeyBusy:
                continue
            running.append(request)
        elif running:
            running.pop(0).close()
        assert quotas.in_flight(id) == len(running) <= 3

    for running in open_requests.values():
        for request in running:
            request.close()

    assert not quotas._in_flight


# Models of a key --------------------------------------------------------------------------------------------------

DIAL = {"svc-tiny-dial": "dial"}
BOTH = {**DIAL, "svc-vllm-other": "other"}


@pytest.mark.parametrize(
    ("models", "name", "services", "may"),
    [
        ((), "anything", {}, True),
        (("Dial",), "dial", DIAL, True),
        (("Dial",), "Dial", DIAL, True),
        (("Dial",), "svc-tiny-dial", DIAL, True),
        (("svc-tiny-dial",), "dial", DIAL, True),
        (("gpt-4o",), "gpt-4o", BOTH, True),
        (("Dial",), "gpt-4o", DIAL, True),
        (("Dial",), "gpt-4o", BOTH, False),
        (("Dial",), "other", {"svc-vllm-other": "other"}, False),
        (("Dial",), "does-not-exist", {}, False),
    ],
)
def test_a_key_may_use_its_models_by_any_of_their_names_and_nothing_that_could_lead_elsewhere(
    models, name, services, may
):
    assert a_key(models=models).may_use(name, services) is may
