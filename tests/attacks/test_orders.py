"""A writer in Redis captures, replays and forges signed operations; a host executes only what was signed for it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from lab.attacker import RedisWriter, a_host
from lab.commands import PUBLIC_KEY, SIGNING_KEY, a_pull, a_start_of, a_stop_of, enqueue_signed, order_of
from pydantic import SecretStr

from aima_core.domain.ids import OperationId, Route
from aima_core.domain.operations import COMMAND, Kind, State
from aima_core.errors import BadSettings
from aima_core.redis import keys
from aima_core.store.operations import now
from aima_core.trust.keys import Purpose, SigningKey
from aima_core.trust.orders import CLOCK_DIFFERENCE, clock_ms

pytestmark = pytest.mark.redis

SERVICE = "svc-tiny-dial"
STRANGER = SecretStr("a seed of one's own, which no host trusts")
NEXT = SecretStr("a seed that an API node signs with from now on")
DAY = timedelta(days=1)


@pytest.fixture
def attacker(redis):
    return RedisWriter(redis)


@pytest.fixture
def alpha(redis, tmp_path):
    with a_host(redis, tmp_path, "alpha") as host:
        yield host


@pytest.fixture
def beta(redis, tmp_path):
    with a_host(redis, tmp_path, "beta") as host:
        yield host


def assert_nothing_runs(desk) -> None:
    assert desk.containers() == []
    assert desk.leases() == []
    assert desk.host.allocations.held(desk.host.name) == {}


# Replays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [{}, {"route": "host.beta"}, {"route": "host.beta", "routes": '["host.beta"]', "queue": "host.beta"}],
    ids=["as it is", "another route", "other routes"],
)
def test_an_order_for_one_host_is_refused_on_another(alpha, beta, attacker, forged):
    start = alpha.ask(a_start_of())

    attacker.forge(start, **forged)
    outcome = beta.finish(start)

    assert outcome.code == "order_refused"
    assert_nothing_runs(beta)


def test_a_start_that_was_stopped_is_refused_when_it_is_replayed(alpha, attacker):
    start = alpha.run_command(a_start_of()).operation.id
    captured = attacker.capture(start)
    alpha.run_command(a_stop_of())

    outcome = alpha.finish(attacker.replay(captured, under=start))

    assert (outcome.operation.state, outcome.code) == (State.CANCELLED, "superseded")
    assert_nothing_runs(alpha)


def test_a_stop_is_remembered_after_redis_has_lost_its_data_and_the_worker_was_restarted(redis, tmp_path, attacker):
    with a_host(redis, tmp_path) as alpha:
        start = alpha.run_command(a_start_of()).operation.id
        captured = attacker.capture(start)
        alpha.run_command(a_stop_of())

    redis.flushall()
    with a_host(redis, tmp_path) as alpha:
        outcome = alpha.finish(attacker.replay(captured, under=start))

        assert outcome.code == "superseded"
        assert_nothing_runs(alpha)


def test_an_old_stop_does_not_stop_a_newer_start(alpha, attacker):
    alpha.run_command(a_start_of())
    stop = alpha.run_command(a_stop_of()).operation.id
    captured = attacker.capture(stop)
    alpha.run_command(a_start_of())

    outcome = alpha.finish(attacker.replay(captured, under=stop))

    assert (outcome.operation.state, outcome.code) == (State.CANCELLED, "superseded")
    assert len(alpha.containers()) == 1


def test_an_order_is_refused_under_the_id_of_another_operation(alpha, attacker):
    captured = attacker.capture(alpha.ask(a_start_of()))

    outcome = alpha.finish(attacker.replay(captured, under=OperationId.new()))

    assert outcome.code == "order_refused"
    assert_nothing_runs(alpha)


@pytest.mark.parametrize("forged", [{}, {"expires_at": (now() + DAY).isoformat(), "not_after": str(clock_ms() * 2)}])
def test_an_order_is_refused_after_its_time(alpha, attacker, forged):
    before = now() - 2 * DAY
    start = alpha.ask(a_start_of())
    late = order_of(
        alpha.host.operations.get(start), a_start_of(), not_before=before, not_after=now() - CLOCK_DIFFERENCE
    )

    attacker.forge(start, order=late.text, signature=late.signature, **forged)
    outcome = alpha.finish(start)

    assert (outcome.operation.state, outcome.code) == (State.FAILED, "expired")
    assert_nothing_runs(alpha)


# Forged records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        {"fence": str(clock_ms() + 60_000)},
        {"service": "svc-tiny-other"},
        {"needs": '{"memory": 0}'},
        {"routes": '["host.alpha", "host.beta"]'},
        {"route": "host.beta"},
        {"image": "evil:1"},
        {"command": a_start_of(image="evil:1").model_dump_json()},
        {"command": a_start_of("svc-tiny-other").model_dump_json()},
        {"command": ""},
        {"kind": "stop", "command": a_stop_of().model_dump_json()},
        {"kind": "pull", "command": a_pull().model_dump_json()},
        {"kind": "stop"},
    ],
    ids=lambda forged: " and ".join(forged),
)
def test_a_record_that_differs_from_its_order_is_refused_and_releases_what_it_was_granted(alpha, attacker, forged):
    start = alpha.ask(a_start_of())

    attacker.forge(start, **forged)
    outcome = alpha.finish(start)

    assert outcome.code == "order_refused"
    assert_nothing_runs(alpha)
    assert alpha.run_command(a_start_of()).operation.state is State.SUCCEEDED


def test_a_start_without_needs_does_not_run_beyond_the_capacity_of_the_host(alpha, attacker):
    big = a_start_of("svc-tiny-big", requires={"platforms": ["linux/amd64", "linux/arm64"], "memory": "90GB"})
    start = alpha.ask(big)

    attacker.forge(start, needs='{"memory": 1}')
    outcome = alpha.finish(start)

    assert outcome.code == "order_refused"
    assert_nothing_runs(alpha)


def test_an_order_with_an_invented_fence_is_refused_after_a_stop(alpha, attacker):
    start = alpha.run_command(a_start_of()).operation
    captured = attacker.capture(start.id)
    stop = alpha.run_command(a_stop_of()).operation

    fence = stop.fence + 1
    order = json.loads(captured["order"]) | {"fence": fence}
    replayed = attacker.replay(captured, under=start.id, fence=str(fence), order=json.dumps(order))
    outcome = alpha.finish(replayed)

    assert outcome.code == "bad_signature"
    assert_nothing_runs(alpha)


@pytest.mark.parametrize("field", ["order", "signature", "both"])
def test_an_unsigned_record_is_refused(alpha, redis, field):
    start = alpha.ask(a_start_of())

    redis.hdel(keys.operation(start), *(("order", "signature") if field == "both" else (field,)))
    outcome = alpha.finish(start)

    assert outcome.code == "bad_signature"
    assert_nothing_runs(alpha)


def test_an_order_signed_by_an_unknown_key_is_refused(alpha):
    outcome = alpha.run_command(a_start_of(), key=STRANGER)

    assert outcome.code == "bad_signature"
    assert_nothing_runs(alpha)


def test_an_order_signed_by_a_retired_key_is_refused(redis, tmp_path):
    keys_of_host = {"trusted_keys": [SigningKey(STRANGER).public], "retired_keys": [PUBLIC_KEY]}
    with a_host(redis, tmp_path, **keys_of_host) as alpha:
        outcome = alpha.run_command(a_start_of())

        assert outcome.code == "bad_signature"
        assert_nothing_runs(alpha)


def test_during_a_rotation_a_host_executes_orders_of_both_keys_and_of_no_other(redis, tmp_path):
    with a_host(redis, tmp_path, trusted_keys=[PUBLIC_KEY, SigningKey(NEXT).public]) as alpha:
        before = alpha.run_command(a_start_of(), key=SIGNING_KEY)
        after = alpha.run_command(a_stop_of(), key=NEXT)
        other = alpha.run_command(a_start_of(), key=STRANGER)

    assert [before.code, after.code, other.code] == [None, None, "bad_signature"]


def test_the_signature_of_a_record_is_none_of_an_order(alpha, attacker):
    start = alpha.ask(a_start_of())

    text = attacker.capture(start)["order"]
    attacker.forge(start, signature=SigningKey(SIGNING_KEY).sign(text, Purpose.SERVICE))
    outcome = alpha.finish(start)

    assert outcome.code == "bad_signature"


# Orders that a host does not execute, whoever signed them --------------------------------------------------------


@pytest.mark.parametrize(
    "signed",
    [
        {"members": ("svc-tiny-dial@alpha", "svc-tiny-dial@beta")},
        {"not_before": now() + timedelta(hours=1)},
        {"fence": clock_ms() + 3_600_000},
        {"images": ("other:1",)},
        {"kind": Kind.PULL},
    ],
    ids=lambda signed: next(iter(signed)),
)
def test_an_order_that_the_host_cannot_keep_is_refused(alpha, attacker, signed):
    start = alpha.ask(a_start_of())

    order = order_of(alpha.host.operations.get(start), a_start_of(), **signed)
    forged = {"fence": str(signed["fence"])} if "fence" in signed else {}
    attacker.forge(start, order=order.text, signature=order.signature, **forged)
    outcome = alpha.finish(start)

    assert outcome.code == "order_refused"
    assert_nothing_runs(alpha)


def test_an_order_with_an_unknown_limit_is_refused(alpha, attacker):
    start = alpha.ask(a_start_of())

    text = json.dumps(json.loads(attacker.capture(start)["order"]) | {"only_on_weekdays": True})
    attacker.forge(start, order=text, signature=SigningKey(SIGNING_KEY).sign(text, Purpose.ORDER))
    outcome = alpha.finish(start)

    assert outcome.code == "order_refused"
    assert_nothing_runs(alpha)


def test_a_route_is_signed_and_a_host_beyond_it_refuses_the_order(redis, tmp_path, attacker, alpha):
    route = next(route for route in alpha.host.routes if route.host is None)
    start = enqueue_signed(alpha.host.operations, a_start_of(), route=route)

    attacker.forge(start.id, route="gb10.arm64", routes='["gb10.arm64"]')
    refused = alpha.finish(start.id)

    assert refused.code == "order_refused"
    assert alpha.run_command(a_start_of(), route=route).operation.state is State.SUCCEEDED
    assert alpha.run_command(a_start_of("svc-tiny-b"), route=Route("gb10.arm64")).code == "order_refused"


# What a host keeps ------------------------------------------------------------------------------------------------


def test_a_host_that_is_given_the_seed_keeps_no_private_key(redis, tmp_path):
    with a_host(redis, tmp_path, signing_key=SIGNING_KEY) as alpha:
        outcome = alpha.run_command(a_start_of())

        assert outcome.operation.state is State.SUCCEEDED
        assert alpha.host.settings.signing_key is None
        assert not any(isinstance(kept, SigningKey) for kept in vars(alpha.host).values())


def test_a_command_is_parsed_only_after_its_digest_was_compared(alpha, attacker, monkeypatch):
    start = alpha.ask(a_start_of())
    parsed = []
    monkeypatch.setattr(type(COMMAND), "validate_json", lambda *_, **__: parsed.append(1))

    attacker.forge(start, command="[" * 1000)
    outcome = alpha.finish(start)

    assert outcome.code == "order_refused"
    assert parsed == []


def test_a_host_without_a_key_does_not_start(redis, tmp_path):
    with pytest.raises(BadSettings, match="no key to verify orders"), a_host(redis, tmp_path, trusted_keys=[]):
        pass
