"""An event follower reconnects and returns every event exactly once and in order."""

from __future__ import annotations

from typing import Any

import pytest
from api.cli.stand_in import CUT, ID, StandIn, a_failure, an_event, an_operation

from aima_api.cli.progress.event_follower import RECONNECT_TIMEOUT, ConnectionLost, EventFollower, Reconnect, Update
from aima_api.client import Api, ApiError
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Operation
from aima_core.errors import ApiUnavailable

EVENTS = f"GET /v1/operations/{ID}/events"


def follow(api: Api, **options: Any) -> list[Update]:
    return list(EventFollower(api, OperationId(ID), reconnect=Reconnect(sleep=lambda _: None, **options)))


def numbers(news: list[Update]) -> list[int]:
    return [each.seq for each in news if isinstance(each, Event)]


def test_an_uninterrupted_stream_is_followed_to_its_end(script: StandIn, api: Api) -> None:
    script.stream(an_event(1, "queued"), ": heartbeat\n\n", an_event(2, "starting"), an_event(3, "ready", name="end"))

    news = follow(api)

    assert numbers(news) == [1, 2, 3]
    assert not any(isinstance(each, ConnectionLost) for each in news)


def test_an_interrupted_stream_resumes_after_the_last_event(script: StandIn, api: Api) -> None:
    script.stream(an_event(1, "queued"), an_event(2, "pulling"), CUT)
    script.stream(an_event(3, "starting"), an_event(4, "ready", name="end"))

    news = follow(api)

    assert numbers(news) == [1, 2, 3, 4]
    assert [asked.headers.get("Last-Event-ID") for asked in script.asked(EVENTS)] == [None, "2"]
    assert [type(each) for each in news].count(ConnectionLost) == 1


def test_a_duplicate_event_is_returned_once(script: StandIn, api: Api) -> None:
    script.stream(an_event(1, "queued"), an_event(2, "starting"), CUT)
    script.stream(an_event(1, "queued"), an_event(2, "starting"), an_event(3, "ready", name="end"))

    assert numbers(follow(api)) == [1, 2, 3]


def test_a_gap_is_requested_again(script: StandIn, api: Api) -> None:
    script.stream(an_event(1, "queued"), an_event(3, "ready", name="end"))
    script.stream(an_event(2, "starting"), an_event(3, "ready", name="end"))

    news = follow(api)

    assert numbers(news) == [1, 2, 3]
    assert script.asked(EVENTS)[1].headers["Last-Event-ID"] == "1"


def test_a_gap_that_stays_is_filled_from_the_record(script: StandIn, api: Api) -> None:
    script.stream(an_event(3, "starting"))
    script.answer(f"GET /v1/operations/{ID}", an_operation(state="running", phase="starting", seq=3))
    script.stream(an_event(4, "ready", name="end"))

    news = follow(api)

    assert [(type(each), each.seq) for each in news if not isinstance(each, ConnectionLost)] == [
        (Operation, 3),
        (Event, 4),
    ]


def test_after_a_reset_a_follower_continues_from_the_snapshot(script: StandIn, api: Api) -> None:
    snapshot = Operation.model_validate(an_operation(state="running", phase="loading", seq=40)).model_dump_json()
    script.stream(f"event: reset\ndata: {snapshot}\n\n", an_event(41, "ready", name="end"))

    news = follow(api)

    assert isinstance(news[0], Operation)
    assert numbers(news) == [41]


def test_a_stream_that_closes_without_a_final_event_is_ended_by_the_record(script: StandIn, api: Api) -> None:
    script.stream()
    script.answer(f"GET /v1/operations/{ID}", an_operation(state="failed", phase="failed", failure=a_failure()))

    (news,) = follow(api)

    assert isinstance(news, Operation)
    assert news.failure is not None


def test_an_api_that_lost_redis_for_a_moment_is_asked_again(script: StandIn, api: Api) -> None:
    script.refuse(EVENTS, code="broker_unavailable", status=503)
    followed = iter(EventFollower(api, OperationId(ID), reconnect=Reconnect(sleep=lambda _: None)))

    lost = next(followed)
    script.stream(an_event(1, "queued"), an_event(2, "ready", name="end"))

    assert isinstance(lost, ConnectionLost)
    assert numbers(list(followed)) == [1, 2]


def test_an_unknown_operation_is_requested_only_once(script: StandIn, api: Api) -> None:
    script.refuse(EVENTS, code="unknown_operation", status=404)

    with pytest.raises(ApiError) as refused:
        follow(api)

    assert refused.value.failure.code == "unknown_operation"
    assert len(script.asked(EVENTS)) == 1


def test_an_api_that_stays_unreachable_fails_the_follow() -> None:
    clock = iter([0.0, 1.0, RECONNECT_TIMEOUT.total_seconds() + 1])

    with Api("http://127.0.0.1:9") as nobody, pytest.raises(ApiUnavailable):
        follow(nobody, clock=lambda: next(clock))
