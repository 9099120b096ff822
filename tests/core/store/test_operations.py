"""Operation records: claims, fenced writes, and events without gaps."""

from __future__ import annotations

import json
from itertools import chain
from types import SimpleNamespace

import pytest
from lab.commands import a_pull, a_start_of, enqueue_signed

from aima_core.domain.ids import HostName, OperationId
from aima_core.domain.operations import Event, Operation, Phase, State
from aima_core.errors import Cancelled, UnknownOperation
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.claims import Claimed, ClaimStatus, ClaimStore, NotClaimable
from aima_core.store.operation_records import BATCH_SIZE, QueuedOperation, enqueue_calls
from aima_core.store.operations import OperationStore, now

pytestmark = pytest.mark.redis
ALPHA, BETA = HostName("alpha"), HostName("beta")


@pytest.fixture
def store(redis: TextRedis) -> OperationStore:
    return OperationStore(redis)


@pytest.fixture
def claims(redis: TextRedis) -> ClaimStore:
    return ClaimStore(redis)


def an_event(operation: Operation, phase: Phase, **more: object) -> Event:
    return Event.model_validate({"operation": operation.id, "at": now(), "phase": phase, **more})


def claim(claims: ClaimStore, operation: Operation, host: HostName = ALPHA) -> Claimed:
    claimed = claims.claim(operation.id, host)
    assert isinstance(claimed, Claimed), claimed
    return claimed


def test_a_recorded_operation_is_read_back_unchanged(store):
    operation = enqueue_signed(store, a_pull("repo/name:tag"))

    read = store.get(operation.id)

    assert read == operation


def test_one_host_claims_an_operation_and_a_duplicate_message_does_nothing(store, claims):
    operation = enqueue_signed(store, a_pull())

    first, second = claims.claim(operation.id, ALPHA), claims.claim(operation.id, BETA)

    assert isinstance(first, Claimed)
    assert first.attempt == 1
    assert isinstance(second, NotClaimable)
    assert "alpha" in second.reason


def test_the_record_has_the_times_of_its_first_claim_and_its_end(store, claims):
    operation = enqueue_signed(store, a_pull())
    claimed = claim(claims, operation)
    store.append_event(an_event(operation, Phase.PULLED), attempt=claimed.attempt)

    read = store.get(operation.id)

    assert read.created_at <= read.started_at <= read.ended_at


def test_the_reason_of_a_phase_is_removed_by_the_next_phase(store):
    operation = enqueue_signed(store, a_pull())
    store.append_event(an_event(operation, Phase.QUEUED, message="no host yet"))
    assert store.get(operation.id).reason == "no host yet"

    store.append_event(an_event(operation, Phase.PULLING))

    assert store.get(operation.id).reason is None


def test_an_expired_claim_lets_the_next_worker_of_the_host_take_over(store, claims, redis):
    operation = enqueue_signed(store, a_pull())
    lost = claim(claims, operation)
    redis.delete(keys.claim(operation.id))  # as Redis does when the claim expires

    taken_over = claim(claims, operation)

    assert taken_over.attempt == lost.attempt + 1
    assert claims.renew(operation.id, ALPHA, lost.attempt) is ClaimStatus.SUPERSEDED
    assert claims.renew(operation.id, ALPHA, taken_over.attempt) is ClaimStatus.VALID


def test_a_claimed_operation_belongs_to_its_host_until_it_is_released(store, claims, redis):
    operation = enqueue_signed(store, a_pull())
    held = claim(claims, operation)
    redis.delete(keys.claim(operation.id))

    refused = claims.claim(operation.id, BETA)
    again = claim(claims, operation)
    claims.release(operation.id, ALPHA, again.attempt, to_any_host=True)

    assert isinstance(refused, NotClaimable)
    assert claim(claims, operation, BETA).attempt == held.attempt + 2


def test_a_worker_whose_claim_expired_can_no_longer_write_to_the_operation(store, claims, redis):
    operation = enqueue_signed(store, a_pull())
    lost = claim(claims, operation)
    redis.delete(keys.claim(operation.id))
    claim(claims, operation)

    number = store.append_event(an_event(operation, Phase.FAILED), attempt=lost.attempt)

    assert number == 0
    assert store.get(operation.id).state is State.RUNNING


def test_a_claim_that_is_not_renewed_expires(store, claims, redis):
    operation = enqueue_signed(store, a_pull())
    claim(claims, operation)

    left = redis.pttl(keys.claim(operation.id))

    assert 0 < left <= keys.CLAIM_TTL.total_seconds() * 1000


def test_a_final_state_never_changes(store, claims):
    operation = enqueue_signed(store, a_pull())
    store.append_event(an_event(operation, Phase.CANCELLED, failure=Cancelled().failure))

    number = store.append_event(an_event(operation, Phase.READY))

    assert number == 0
    assert store.get(operation.id).state is State.CANCELLED
    assert isinstance(claims.claim(operation.id, ALPHA), NotClaimable)
    assert operation.id not in store.active()


def test_an_ended_operation_expires_and_an_active_one_never_does(store, redis):
    ended, active = enqueue_signed(store, a_pull()), enqueue_signed(store, a_pull())
    for operation in (ended, active):
        store.append_event(an_event(operation, Phase.QUEUED))

    store.append_event(an_event(ended, Phase.FAILED))

    assert all(redis.ttl(key) > 0 for key in (keys.operation(ended.id), keys.log(ended.id)))
    assert all(redis.ttl(key) == -1 for key in (keys.operation(active.id), keys.log(active.id)))


def test_events_are_numbered_without_gaps_and_can_be_replayed_from_any_number(store):
    operation = enqueue_signed(store, a_pull())
    for phase in (Phase.PULLING, Phase.PULLING, Phase.PULLED):
        store.append_event(an_event(operation, phase))

    events = store.events(operation.id)
    later = store.events(operation.id, after=2)

    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert later == events[2:]


def test_an_event_and_its_publication_have_the_same_number(store, redis):
    operation = enqueue_signed(store, a_pull())
    with redis.pubsub(ignore_subscribe_messages=True) as follower:
        follower.subscribe(keys.EVENTS)
        follower.get_message(timeout=5)

        number = store.append_event(an_event(operation, Phase.PULLING, message="on it"))

        published = follower.get_message(timeout=5)["data"]
    id, seq, _, event = published.split(" ", 3)
    assert (id, int(seq)) == (operation.id, number)
    assert Event.model_validate_json(event).message == "on it"


def test_an_unclaimed_operation_is_ended_by_its_cancel_and_a_claimed_one_by_its_holder(store, claims):
    waiting, held = enqueue_signed(store, a_pull()), enqueue_signed(store, a_pull())
    claimed = claim(claims, held)

    assert store.request_cancel(waiting.id) is True
    assert store.request_cancel(held.id) is False
    assert claims.renew(held.id, ALPHA, claimed.attempt) is ClaimStatus.CANCEL


def test_a_cancelled_operation_cannot_be_claimed(store, claims):
    operation = enqueue_signed(store, a_pull())
    store.request_cancel(operation.id)

    claimed = claims.claim(operation.id, ALPHA)

    assert isinstance(claimed, NotClaimable)
    assert claimed.cancel_pending


def test_an_operation_without_a_record_is_unknown(store):
    with pytest.raises(UnknownOperation):
        store.get(OperationId.new())
    with pytest.raises(UnknownOperation):
        store.request_cancel(OperationId.new())


def test_pages_list_every_operation_once_newest_first(store):
    made = [enqueue_signed(store, a_pull(), seconds_later=age) for age in range(7)]

    listed, page = [], store.page(limit=3)
    listed += page.items
    while page.after:
        page = store.page(limit=3, after=page.after)
        listed += page.items

    assert [operation.id for operation in listed] == [operation.id for operation in reversed(made)]


def test_a_page_lists_only_operations_that_match_its_filter(store):
    ended, waiting = enqueue_signed(store, a_pull()), enqueue_signed(store, a_pull())
    store.append_event(an_event(ended, Phase.FAILED))

    page = store.page(limit=10, having={"state": "queued"})

    assert [operation.id for operation in page.items] == [waiting.id]


def test_an_expired_record_leaves_the_listing(store, redis):
    gone, there = enqueue_signed(store, a_pull()), enqueue_signed(store, a_pull())
    redis.delete(keys.operation(gone.id))

    page = store.page(limit=10)

    assert [operation.id for operation in page.items] == [there.id]
    assert redis.zcard(keys.OPERATIONS) == 1


def test_the_operations_of_one_service_are_stored_by_one_call_of_the_script():
    sizes = [1] * 30 + [30, 3, 2 * BATCH_SIZE, 1]
    queued = list[QueuedOperation]()
    taking = SimpleNamespace(enqueue=lambda those: queued.extend(those) or those, reserve_fences=lambda _: 1)
    for number, size in enumerate(sizes):
        for _ in range(size):
            enqueue_signed(taking, a_start_of(f"svc-tiny-{number}"))

    calls = [
        [dict(zip(group["names"], values, strict=True)) for group in _groups(args) for values in group["each"]]
        for _, args in enqueue_calls(queued)
    ]

    stored = [[own["id"] for own in operations] for operations in calls]
    services = [{own["instance"] for own in operations} for operations in calls]
    assert list(chain.from_iterable(stored)) == [each.operation.id for each in queued]
    assert [len(ids) for ids in stored] == [30, 33, 2 * BATCH_SIZE, 1]
    assert sum(map(len, services)) == len(set().union(*services)) == len(sizes)


def _groups(arguments):
    """The only one in JSON."""
    return next(json.loads(each) for each in arguments if str(each).startswith("[{"))


def test_an_operation_that_is_enqueued_after_a_later_one_ends_superseded_and_names_it(store):
    later = enqueue_signed(store, a_start_of(port=20002), fence=9)

    earlier = enqueue_signed(store, a_start_of(port=20001), fence=8)

    assert (earlier.state, earlier.failure.code) == (State.CANCELLED, "superseded")
    assert earlier.failure.message == f"Superseded by operation {later.id} on {later.service}."
    assert store.get(earlier.id).failure == store.events(earlier.id)[-1].failure == earlier.failure


def test_a_later_operation_that_is_not_known_is_not_named(store, redis):
    later = enqueue_signed(store, a_start_of(port=20002), fence=9)
    redis.hset(keys.instance(later.service.on(ALPHA)), "asked_by", "%1 is forged")

    earlier = enqueue_signed(store, a_start_of(port=20001), fence=8)

    assert store.get(earlier.id).failure.message == f"Superseded by a later operation on {later.service}."
