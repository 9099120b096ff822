"""Which piece a host takes from where: rare ones first, spread over hosts; and the whole of it in a simulated site."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from aima_core.domain.ids import HostName, ModelId, Site
from aima_core.domain.models import Manifest, ManifestFile
from aima_core.store.fetching import UPLOADS, FetchingStore, Found, Report, Statement
from aima_worker.models.choice import Other, choose, numbers_in, set_of
from bench.simulated_site import Links, ideal, simulate

ALPHA, BETA, GAMMA, DELTA = map(HostName, ("alpha", "beta", "gamma", "delta"))
DEFAULT = Site("default")
MANIFEST = Manifest(
    model=ModelId("small"),
    source="hf:a/b@main",
    revision="0" * 40,
    files=(ManifestFile(path="w", size=1 << 30, sha256="0" * 64),),
)


def chosen(missing, others, usable=None, **how):
    given = {"own": {}, "most": 4, "random": Random(1), **how}
    return choose(missing, others, list(others) if usable is None else usable, **given)


# Choice ---------------------------------------------------------------------------------------------------------------


def test_the_rarest_piece_is_taken_first():
    others = {ALPHA: Other(0b111, {}), BETA: Other(0b110, {}), GAMMA: Other(0b010, {})}

    assert chosen(0b111, others, most=1) == [(0, ALPHA)]


def test_a_piece_that_another_host_downloads_is_less_rare():
    others = {ALPHA: Other(0b11, {}), BETA: Other(0, {0: ALPHA})}

    assert chosen(0b11, others, most=1)[0].piece == 1


def test_pieces_that_nobody_serves_are_not_chosen():
    others = {ALPHA: Other(0b01, {}), BETA: Other(0b10, {})}

    assert chosen(0b11, others, [ALPHA]) == [(0, ALPHA)]


def test_a_host_that_sends_as_much_as_it_may_is_left_out():
    busy = dict.fromkeys(range(UPLOADS), ALPHA)
    others = {ALPHA: Other(0b1111 << 8, {}), BETA: Other(0, busy), GAMMA: Other(0b1000 << 8, {})}

    assert chosen(0b1111 << 8, others) == [(11, GAMMA)]


def test_several_pieces_come_from_several_hosts():
    others = {host: Other(0xFFFF, {}) for host in (ALPHA, BETA, GAMMA, DELTA)}

    assert Counter(source for _, source in chosen(0xFFFF, others)) == Counter([ALPHA, BETA, GAMMA, DELTA])


def test_two_hosts_choose_different_pieces_of_equal_rarity():
    others = {ALPHA: Other((1 << 100) - 1, {})}

    first, second = (chosen((1 << 100) - 1, others, random=Random(seed)) for seed in (1, 2))

    assert {piece for piece, _ in first} != {piece for piece, _ in second}


@pytest.mark.parametrize("numbers", [[], [0], [7, 8], [1, 5, 63, 64, 65], list(range(0, 9000, 7))])
def test_a_set_has_the_numbers_it_was_made_of(numbers):
    made = set_of(numbers, most=9000)

    assert made == sum(1 << number for number in numbers)
    assert numbers_in(made) == numbers


# Leases ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(fake_redis) -> FetchingStore:
    return FetchingStore(fake_redis)


def exchange(store, host, **report):
    """Of a host that has stated something before."""
    store.exchange(MANIFEST, DEFAULT, host, Report(Statement(), leased=report.get("leased", ())))
    return store.exchange(MANIFEST, DEFAULT, host, Report(**{"statement": Statement(), "leases": 4, **report}))


def test_a_piece_of_the_origin_is_leased_to_one_host(store):
    first = exchange(store, ALPHA, wanted=[0, 1])
    second = exchange(store, BETA, wanted=[0, 1, 2])

    assert (first.leased, second.leased) == ([0, 1], [2])


def test_a_host_that_redis_does_not_know_is_leased_nothing_yet(store):
    report = Report(Statement(), wanted=[0], leases=4)

    answers = [store.exchange(MANIFEST, DEFAULT, ALPHA, report) for _ in range(2)]

    assert [(each.was_known, each.leased) for each in answers] == [(False, []), (True, [0])]


def test_a_lease_ends_when_its_host_no_longer_states_it(store):
    exchange(store, ALPHA, wanted=[0])
    exchange(store, ALPHA)

    assert exchange(store, BETA, wanted=[0]).leased == [0]


def test_a_stated_lease_is_kept(store):
    exchange(store, ALPHA, wanted=[0])
    exchange(store, ALPHA, leased=[0])

    assert exchange(store, BETA, wanted=[0]).leased == []


def test_a_host_that_states_nothing_any_longer_loses_its_leases(store, fake_redis):
    exchange(store, ALPHA, wanted=[0], counts_for=-Report(Statement()).counts_for)

    assert exchange(store, BETA, wanted=[0]).leased == [0]


def test_a_downloaded_piece_is_leased_again_only_as_one_that_nobody_serves(store):
    exchange(store, ALPHA, found={0: Found("a" * 64, ALPHA)})

    denied = exchange(store, BETA, wanted=[0])
    granted = exchange(store, BETA, unserved=[0])

    assert (denied.leased, denied.downloaded) == ([], [0])
    assert granted.leased == [0]


def test_a_piece_whose_host_has_published_its_digest_and_still_leases_it_counts_as_leased(store):
    """Its next statement has it: meanwhile nobody may think that it is lost."""
    exchange(store, ALPHA, wanted=[0])
    exchange(store, ALPHA, leased=[0], found={0: Found("a" * 64, ALPHA)})

    answer = exchange(store, BETA, wanted=[0])

    assert (answer.leased, answer.downloaded) == ([], [])


def test_the_first_digest_of_a_piece_stays_until_it_is_corrected(store):
    exchange(store, ALPHA, found={0: Found("a" * 64, ALPHA)})
    exchange(store, BETA, found={0: Found("b" * 64, BETA)})
    assert store.digests(MANIFEST, DEFAULT, [0]) == {0: Found("a" * 64, ALPHA)}

    exchange(store, BETA, corrected={0: Found("c" * 64, BETA)})

    assert store.digests(MANIFEST, DEFAULT, [0]) == {0: Found("c" * 64, BETA)}


def test_leases_of_a_site_are_divided_among_its_hosts(store):
    for host in (ALPHA, BETA, GAMMA, DELTA):
        exchange(store, host)

    leased = exchange(store, ALPHA, wanted=range(100), leases=100).leased

    assert len(leased) == 4


def test_no_host_is_asked_for_more_pieces_than_it_sends_at_a_time(store):
    hosts = [HostName(f"host-{number}") for number in range(6)]
    for host in hosts:
        exchange(store, host)

    begun = [exchange(store, host, asked=[ALPHA, ALPHA], downloads=4).begun for host in hosts]

    assert begun == [[0]] * UPLOADS + [[], []]


def test_other_hosts_and_their_statements_are_returned(store):
    exchange(store, ALPHA, statement=Statement(url="http://alpha:7091", held="f", downloads={4: BETA}))

    found = exchange(store, BETA)

    assert found.hosts == {ALPHA}
    assert found.statements[ALPHA].pieces == 0b1111
    assert found.statements[ALPHA].downloads == {4: BETA}


@pytest.mark.parametrize("forged", ["", "x", "99999999999999 1,2 a {", "99999999999999  alpha " + '{"held": "zz"}'])
def test_a_forged_statement_disturbs_nothing(store, fake_redis, forged):
    exchange(store, BETA)
    [key] = fake_redis.keys("aima:fetching:*")
    fake_redis.hset(key, "forged", forged)

    answer = exchange(store, ALPHA, wanted=[7])

    assert answer.leased == [7]
    assert set(answer.statements) <= {BETA}


# The whole ------------------------------------------------------------------------------------------------------------

OFFICE = Links(lan=125e6, uplink=25e6)


@pytest.mark.redis
@pytest.mark.parametrize("hosts", [3, 8])
def test_a_site_takes_a_model_over_its_uplink_once_and_in_about_that_time(redis, tmp_path, hosts):
    outcome = simulate(redis, tmp_path, hosts=hosts, pieces=30, links=OFFICE)

    assert outcome.from_origin == 30 << 24
    assert outcome.seconds <= 1.3 * ideal(pieces=30, links=OFFICE)


@pytest.mark.redis
def test_hosts_copy_a_model_that_is_there_in_little_more_than_the_time_of_one_copy(redis, tmp_path):
    outcome = simulate(redis, tmp_path, hosts=4, pieces=60, links=OFFICE, seeds=1)

    assert outcome.from_origin == 0
    assert outcome.seconds <= 1.3 * ideal(pieces=60, links=OFFICE, seeds=1)
