"""Rate limits: a burst, then a steady rate; by key, and by address for wrong keys."""

from __future__ import annotations

from datetime import timedelta

import pytest
from api.access.guarded import Clock, guarded_node

from aima_api.access import limits
from aima_api.access.limits import TokenBuckets, network_of


@pytest.fixture
def clock():
    return Clock()


def test_a_bucket_allows_a_burst_then_a_steady_rate(clock):
    buckets = TokenBuckets(per_minute=60, burst=3, clock=clock)

    burst = [buckets.take("one") for _ in range(4)]
    clock.advance(timedelta(seconds=1))
    later = [buckets.take("one") for _ in range(2)]

    assert burst[:3] == [None] * 3
    assert burst[3] == timedelta(seconds=1)
    assert (later[0], later[1]) == (None, timedelta(seconds=1))


def test_each_owner_has_a_bucket_and_an_idle_one_fills_up_to_the_burst_only(clock):
    buckets = TokenBuckets(per_minute=2, clock=clock)
    emptied = [buckets.take("one") for _ in range(3)]

    other = buckets.take("other")
    clock.advance(timedelta(hours=1))
    again = [buckets.take("one") is None for _ in range(3)]

    assert emptied[2] is not None
    assert other is None
    assert again == [True, True, False]


def test_the_number_of_buckets_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(limits, "MOST_OWNERS", 10)
    buckets = TokenBuckets(per_minute=1, clock=clock)

    for number in range(100):
        buckets.take(str(number))

    assert len(buckets._buckets) == 10


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unknown", "unknown"),
    ],
)
def test_addresses_of_one_ipv6_network_have_one_owner(address, network):
    assert network_of(address) == network


@pytest.mark.redis
def test_a_key_with_too_many_requests_is_refused_and_others_are_not(redis_url):
    with guarded_node(redis_url, requests_per_minute=20) as guarded:
        busy, other = guarded.create("busy"), guarded.create("other")
        answers = [guarded.ask("GET", "/v1/hosts", busy) for _ in range(25)]
        others = guarded.ask("GET", "/v1/hosts", other)

    assert [answer.status_code for answer in answers[:20]] == [200] * 20
    refused = answers[-1]
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 4
    assert "busy" in refused.json()["detail"]
    assert others.status_code == 200
