"""The audit log: who did what to what, from where, when, with which outcome."""

from __future__ import annotations

import time
from datetime import timedelta
from threading import Event

import pytest
from api.access.guarded import Clock, guarded_node
from api.node import SERVICE, ScriptedWorker, api_node
from lab.parts import eventually
from structlog.testing import capture_logs

from aima_api.access import audit
from aima_api.access.audit import OTHERS, WINDOW, AuditLog
from aima_core.errors import InvalidRequest
from aima_core.redis import keys
from aima_core.redis.connection import REPLY_TIMEOUT, command_link

pytestmark = pytest.mark.redis

REQUEST = {"key": "ci", "address": "192.0.2.7", "method": "POST", "path": "/v1/x"}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(redis, clock):
    return AuditLog(redis, now=clock.now)


def paths(page) -> list[str]:
    return [entry.path for entry in page.entries]


def test_a_request_that_changes_something_is_recorded_with_its_outcome(guarded, redis):
    ScriptedWorker(redis)
    key = guarded.create("ci", "operate")
    guarded.ask("POST", f"/v1/services/{SERVICE}:start", key)
    guarded.ask("POST", "/v1/images:pull", key, json={"engine": "no-such-engine"})
    guarded.ask("GET", "/v1/hosts", key)

    assert eventually(lambda: len(guarded.audit()) == 3)
    created, started, pulled = guarded.audit()
    assert (created["key"], created["path"], created["target"]) == ("api.keys[0]", "/v1/keys", "ci")
    assert (started["key"], started["method"], started["status"]) == ("ci", "POST", 202)
    assert (started["path"], started["address"], started["code"]) == (
        f"/v1/services/{SERVICE}:start",
        "127.0.0.1",
        None,
    )
    assert (pulled["target"], pulled["status"], pulled["code"]) == ("no-such-engine", 404, "unknown_engine")


def test_the_requests_of_one_key_can_be_selected(guarded):
    key = guarded.create("ci", "operate")
    guarded.ask("POST", f"/v1/services/{SERVICE}:stop", key)

    assert eventually(lambda: guarded.audit(key="ci"))
    assert {entry["key"] for entry in guarded.audit(key="ci")} == {"ci"}


def test_a_refused_request_is_recorded_with_its_address(guarded):
    guarded.ask("GET", "/v1/hosts", "a wrong key of the tests")

    assert eventually(lambda: guarded.audit())
    [entry] = guarded.audit()
    assert (entry["key"], entry["address"], entry["status"], entry["code"]) == (None, "127.0.0.1", 401, "unauthorized")


def test_an_open_node_records_the_requests_of_this_machine(redis_url):
    with api_node(redis_url) as node:
        node.post(f"/v1/services/{SERVICE}:stop")

        assert eventually(lambda: node.get("/v1/audit").json()["items"])
        [entry] = node.get("/v1/audit").json()["items"]

    assert (entry["key"], entry["status"], entry["code"]) == ("(local)", 404, "unknown_service")


def test_each_entry_is_a_log_line_as_well(log):
    with capture_logs() as lines:
        log.record(**REQUEST, status=202)

    assert lines == [{"event": "request audited", "log_level": "info", **REQUEST, "status": 202}]


def test_an_outage_of_redis_delays_entries_and_stops_no_request(own_redis, clock):
    link = command_link(own_redis.url)
    log = AuditLog(link, now=clock.now)
    log.loop.start()
    own_redis.kill()

    began = time.monotonic()
    log.record(**REQUEST, status=503)
    took = time.monotonic() - began
    own_redis.start()

    assert took < REPLY_TIMEOUT.total_seconds()
    assert eventually(lambda: paths(log.page(limit=10)) == ["/v1/x"])
    log.close()
    link.close()


def test_entries_are_read_in_pages_and_followed_by_a_cursor(log):
    for number in range(5):
        log.record(**REQUEST | {"path": str(number)}, status=202)
    log.record_refusal(**REQUEST | {"path": "refused"}, status=403, code="insufficient_scope")
    log.write()

    last = log.page(limit=2)
    first = log.page(limit=4, since=Clock().at)
    rest = log.page(limit=4, after=first.last)
    log.record(**REQUEST | {"path": "later"}, status=202)
    log.write()

    assert (paths(last), last.more) == (["4", "refused"], False)
    assert (paths(first), first.more) == (["0", "1", "2", "3"], True)
    assert (paths(rest), rest.more) == (["4", "refused"], False)
    assert [paths(log.page(limit=9, after=page.last)) for page in (rest, last)] == [["later"]] * 2


def test_a_malformed_cursor_is_refused(log):
    with pytest.raises(InvalidRequest):
        log.page(limit=1, after="yesterday")


def test_entries_since_a_moment_are_selected(log, clock):
    log.record(**REQUEST, status=202)
    clock.advance(timedelta(hours=1))
    log.record(**REQUEST | {"path": "later"}, status=202)
    log.write()

    assert paths(log.page(limit=10, since=clock.at - timedelta(minutes=1))) == ["later"]


def test_equal_refusals_within_a_minute_are_two_entries_the_second_with_their_number(log, clock):
    for _ in range(1000):
        log.record_refusal(**REQUEST, status=401, code="unauthorized")
    log.write()
    before = [entry.count for entry in log.page(limit=10).entries]

    clock.advance(WINDOW)
    log.write()

    assert before == [1]
    assert [entry.count for entry in log.page(limit=10).entries] == [1, 999]


def test_refusals_of_many_addresses_are_counted_together_beyond_a_limit(log, clock, monkeypatch):
    monkeypatch.setattr(audit, "MOST_WINDOWS", 10)
    for number in range(1000):
        log.record_refusal(**REQUEST | {"address": f"192.0.2.{number}"}, status=401, code="unauthorized")
    clock.advance(WINDOW)
    log.write()

    entries = log.page(limit=100).entries

    assert len(entries) == 12
    assert sum(entry.count for entry in entries if entry.address == OTHERS) == 990


def test_both_streams_keep_the_newest_entries_up_to_their_cap(log, redis, monkeypatch):
    monkeypatch.setattr(keys, "AUDIT_CAP", 200)
    monkeypatch.setattr(audit, "MOST_WINDOWS", 1000)
    for number in range(1000):
        log.record(**REQUEST | {"path": f"/v1/{number}"}, status=202)
        log.record_refusal(**REQUEST | {"address": f"192.0.2.{number}"}, status=401, code="unauthorized")
    log.write()

    lengths = [redis.xlen(stream) for stream in (keys.AUDIT, keys.AUDIT_REFUSED)]

    assert all(200 <= length <= 300 for length in lengths), lengths  # Redis removes whole nodes of 100 entries
    assert {"/v1/999", "/v1/800"} <= set(paths(log.page(limit=1000)))


def test_a_node_that_shuts_down_writes_what_it_has_counted(redis_url, redis):
    with guarded_node(redis_url) as guarded:
        for _ in range(5):
            guarded.ask("GET", "/v1/hosts", "a wrong key of the tests")

    assert [entry.count for entry in AuditLog(redis).page(limit=10).entries] == [1, 4]


def test_entries_that_are_being_written_at_a_shutdown_are_not_written_again(log, monkeypatch):
    append, begun, again = log._run, Event(), Event()

    def append_slowly(*arguments):
        if begun.is_set():
            again.set()
        begun.set()
        again.wait(1)
        return append(*arguments)

    monkeypatch.setattr(log, "_run", append_slowly)
    monkeypatch.setattr(audit, "STOP_TIMEOUT", timedelta(milliseconds=100))
    log.loop.start()
    log.record(**REQUEST, status=202)
    assert begun.wait(10)

    log.close()

    assert paths(log.page(limit=10)) == ["/v1/x"]
