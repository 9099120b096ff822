"""Log reads without follow: tail, since, hosts, and invalid queries."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from api.node import Node
from logs.desk import SERVICE, CountingRuntime, Desk, Reader, a_desk, said, say

PATH = f"/v1/services/{SERVICE}/logs"


def test_the_default_is_the_last_hundred_lines(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "\n".join(f"line {number}" for number in range(1, 251)))

    lines, notes = said(node)

    assert lines == [f"line {number}" for number in range(151, 251)]
    assert notes == []


def test_a_tail_limits_the_number_of_lines(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "\n".join(f"line {number}" for number in range(1, 2001)))

    assert said(node, tail=2)[0] == ["line 1999", "line 2000"]
    assert len(said(node, tail=2000)[0]) == 2000


def test_since_accepts_a_time_or_a_duration(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "early", pause=0.05)
    between = datetime.now(UTC)
    say(desk, "late")

    assert said(node, since=between.isoformat())[0] == ["late"]
    assert said(node, since=between.isoformat().replace("+00:00", "Z"))[0] == ["late"]
    assert said(node, since="10m")[0] == ["early", "late"]
    assert said(node, since="1ms")[0] == []


def test_since_without_a_tail_returns_every_later_line(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "\n".join(f"line {number}" for number in range(1, 501)))

    assert len(said(node, since="10m")[0]) == 500


def test_lines_of_several_hosts_are_merged_by_time(desk: Desk, node: Node, redis_url: str) -> None:
    with a_desk(redis_url, CountingRuntime(), name="beta") as other:
        desk.run()
        other.run()
        say(desk, "first", pause=0.01)
        say(other, "second", pause=0.01)
        say(desk, "third")

        items = node.get(PATH).json()["items"]

        assert [(item["host"], item["text"]) for item in items] == [
            ("alpha", "first"),
            ("beta", "second"),
            ("alpha", "third"),
        ]
        assert said(node, host="beta")[0] == ["second"]


def test_an_event_stream_is_available_without_follow(desk: Desk, node: Node) -> None:
    desk.run()
    say(desk, "hello")

    with node.client.sse(PATH) as stream:
        lines = Reader(iter(stream)).until_end()

    assert lines == ["hello"]


def test_a_service_without_instances_has_an_empty_log(desk: Desk, node: Node) -> None:
    node.post("/v1/services", {"id": SERVICE, "engine": "dial-cpu"})

    assert said(node) == ([], [])


def test_an_unavailable_docker_engine_is_reported_in_a_note(desk: Desk, node: Node, runtime: CountingRuntime) -> None:
    desk.run()
    runtime.away = True

    lines, notes = said(node)

    runtime.away = False
    assert lines == []
    assert "Docker Engine" in notes[0]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"tail": 0}, "invalid_request"),
        ({"tail": 10_001}, "invalid_request"),
        ({"since": "yesterday"}, "invalid_request"),
        ({"since": "2026-01-31T12:00:00"}, "invalid_request"),
        ({"since": "9" * 6 + "d" + "9" * 6 + "d"}, "invalid_request"),
        ({"host": "nobody"}, "unknown_host"),
        ({"host": "no such name"}, "bad_id"),
    ],
)
def test_an_invalid_query_is_refused(desk: Desk, node: Node, asked: dict[str, str], code: str) -> None:
    desk.run()

    answer = node.get(PATH, params=asked)

    assert answer.json()["code"] == code
    assert answer.json()["hint"]


def test_an_unknown_service_is_refused(node: Node) -> None:
    for follow in ("false", "true"):
        answer = node.get("/v1/services/svc-tiny-nobody/logs", params={"follow": follow})

        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_service")
