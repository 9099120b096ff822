"""A host keeps the signed specs of what it has run, and restores them when Redis has lost its data."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.commands import SERVICE, SIGNING_KEY, a_spec_of
from lab.member import a_member
from pydantic import SecretStr

from aima_core.domain.ids import ServiceId
from aima_core.trust.keys import SigningKey
from aima_worker.node.hardware import arch
from aima_worker.runtimes.fake.runtime import FakeRuntime

pytestmark = pytest.mark.redis
OTHER = ServiceId("svc-tiny-other")
NEW = SecretStr("the seed of the key that signs after a rotation")


@pytest.fixture
def alpha(redis, tmp_path):
    with a_member(redis, tmp_path, "alpha") as member:
        member.beat()
        yield member


@pytest.fixture
def beta(redis, tmp_path):
    with a_member(redis, tmp_path, "beta") as member:
        member.beat()
        yield member


def rotated():
    return {"signing_key": NEW, "retired_keys": [SigningKey(SIGNING_KEY).public]}


def is_stored(member, id: ServiceId = SERVICE) -> bool:
    return member.desk.host.services.exists(id)


def test_a_stopped_service_comes_back_with_its_spec_byte_for_byte(alpha, shared_redis):
    spec = a_spec_of(arguments={"threads": 2}, revision=3)
    alpha.run_and_stop(spec)

    shared_redis.empty()
    alpha.beat()

    assert alpha.stored(SERVICE).record == spec.record
    assert alpha.desk.host.services.listing(limit=9).services == f'{spec.record.text[:-1]},"instances":[]}}'


def test_it_comes_back_from_a_worker_that_was_down_when_the_data_was_lost(redis, tmp_path, shared_redis, beta):
    with a_member(redis, tmp_path, "alpha") as before:
        before.beat()
        before.run_and_stop(a_spec_of())

    shared_redis.empty()
    beta.beat()
    with a_member(redis, tmp_path, "alpha") as after:
        after.beat()

        assert after.stored(SERVICE) == a_spec_of()


def test_a_service_that_a_person_removed_does_not_come_back(alpha, shared_redis):
    for id in (SERVICE, OTHER):
        alpha.run_and_stop(a_spec_of(id))
    alpha.desk.host.services.remove(SERVICE)
    alpha.reconcile()

    shared_redis.empty()
    alpha.beat()

    assert (is_stored(alpha, SERVICE), is_stored(alpha, OTHER)) == (False, True)


def test_a_service_whose_host_was_forgotten_is_not_taken_for_removed(alpha, redis, shared_redis):
    alpha.run_and_stop(a_spec_of())
    alpha.desk.host.hosts.leave(alpha.desk.host.name)
    alpha.desk.host.hosts.forget(alpha.desk.host.name)
    alpha.reconcile()

    shared_redis.empty()
    alpha.beat()

    assert is_stored(alpha)


def test_a_pass_between_the_loss_and_the_next_heartbeat_drops_nothing(alpha, beta, shared_redis):
    alpha.run_and_stop(a_spec_of())

    shared_redis.empty()
    alpha.reconcile()
    beta.beat()
    alpha.reconcile()
    alpha.beat()

    assert alpha.stored(SERVICE) == a_spec_of()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the older first", "the newer first"])
def test_the_newest_version_wins_whatever_the_order_of_the_hosts(alpha, beta, shared_redis, order):
    newer = a_spec_of(revision=2, replicas=3)
    alpha.run_and_stop(a_spec_of(revision=1))
    beta.run_and_stop(newer)

    shared_redis.empty()
    for number in order:
        (alpha, beta)[number].beat()

    assert alpha.stored(SERVICE) == newer


def test_a_version_that_was_written_after_the_loss_is_not_replaced(alpha, shared_redis):
    alpha.run_and_stop(a_spec_of(revision=2))
    written = a_spec_of(created_at="2027-01-01T00:00:00Z")

    shared_redis.empty()
    alpha.desk.host.services.put(written)
    alpha.beat()

    assert alpha.stored(SERVICE) == written


def test_a_spec_that_was_signed_by_a_key_retired_since_comes_back(redis, tmp_path, shared_redis):
    with a_member(redis, tmp_path, "alpha") as before:
        before.beat()
        before.run_and_stop(a_spec_of())

    shared_redis.empty()
    with a_member(redis, tmp_path, "alpha", **rotated()) as after:
        after.beat()

        assert after.stored(SERVICE) == a_spec_of()


def test_a_container_that_was_ordered_under_a_key_retired_since_is_adopted_and_restarted(redis, tmp_path, shared_redis):
    runtime = FakeRuntime(host="alpha", arch=arch(), images=["tiny:1"])
    with a_member(redis, tmp_path, "alpha", runtime=runtime) as before:
        before.run(a_spec_of())
    (container,) = runtime.containers({})

    shared_redis.empty()
    with a_member(redis, tmp_path, "alpha", runtime=runtime, **rotated()) as after:
        after.reconcile()
        adopted = after.desk.host.services.instance(SERVICE.on(after.desk.host.name))
        runtime.end(container.name, exit_code=1)
        after.reconcile()
        again = runtime.find(container.name)
        runtime.remove(container.name, grace=timedelta())

        assert after.stored(SERVICE) == a_spec_of()
        assert adopted.state == "ready"
        assert (again.status, again.labels) == ("running", container.labels)
