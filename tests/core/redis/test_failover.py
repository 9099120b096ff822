"""Sentinel failover: the replica becomes the master, and every client reconnects to it."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from api.node import ScriptedWorker, api_node, numbers
from lab.parts import eventually
from lab.sentinel import watched_by_sentinels

from aima_core.domain.operations import Phase, State
from aima_core.errors import BadSettings, BrokerUnavailable
from aima_core.redis.connection import command_link, following_link
from aima_core.settings import load_settings

pytestmark = pytest.mark.redis

BACK_WITHIN = timedelta(seconds=15)
"""After the failover."""
FAILS_OVER_WITHIN = timedelta(seconds=60)
"""Sentinels that all vote for themselves hold the next election 10 s later."""
STARTS_WITHIN = FAILS_OVER_WITHIN


@pytest.fixture
def watched(redis_server_program, tmp_path):
    with watched_by_sentinels(redis_server_program, tmp_path / "watched", password="secret/of@ours") as watched:
        yield watched


def test_the_api_and_a_worker_continue_with_the_new_master_without_loss_or_duplicates(watched, hosts_of, asked_of):
    fleet, asked = hosts_of(watched.url), asked_of(watched.url)
    before = asked.starts(4)
    assert asked.have_ended(before, within=STARTS_WITHIN)
    with api_node(watched.url) as node:
        assert node.get("/v1/operations").status_code == 200
        amid = asked.starts(4, named="amid")
        assert eventually(watched.replica_has_all, within=STARTS_WITHIN)

        watched.kill_master()
        assert eventually(watched.has_failed_over, within=FAILS_OVER_WITHIN)
        since = time.monotonic()
        assert eventually(lambda: node.post("/v1/images:pull", {"image": "a:1"}).status_code != 503, within=BACK_WITHIN)
        assert asked.have_ended(amid, within=BACK_WITHIN - timedelta(seconds=time.monotonic() - since))
        assert asked.have_ended([asked.pull()], within=BACK_WITHIN - timedelta(seconds=time.monotonic() - since))

        listed = {item["id"]: item for item in node.get("/v1/operations").json()["items"]}
    assert {listed[id]["state"] for id in [*before, *amid]} == {State.SUCCEEDED}
    assert {listed[id]["attempt"] for id in before} == {1}
    assert set(fleet.made().values()) == {1}
    assert watched.password not in fleet.processes[0].log()


def test_a_closed_command_client_holds_no_connection_to_a_sentinel(watched):
    link = command_link(watched.url)
    link.ping()
    assert watched.lines_to_sentinels()

    link.close()

    assert not watched.lines_to_sentinels()


def test_a_closed_subscription_client_holds_no_connection_to_a_sentinel(watched):
    async def followed() -> tuple[int, int]:
        link = following_link(watched.url)
        await link.ping()
        before = watched.lines_to_sentinels()
        await link.aclose()
        return before, watched.lines_to_sentinels()

    before, after = asyncio.run(followed())

    assert before
    assert not after


def test_a_follower_receives_events_after_a_failover_exactly_once(watched):
    link = command_link(watched.url)
    worker = ScriptedWorker(link)
    with api_node(watched.url) as node:
        [operation] = node.start()
        worker.claim_start(operation["id"])
        with node.following(operation["id"]) as stream:
            assert next(stream).event == "phase"
            worker.says(operation["id"], Phase.STARTING)
            received = [next(stream)]
            assert eventually(watched.replica_has_all, within=STARTS_WITHIN)

            watched.kill_master()
            assert eventually(watched.has_failed_over, within=FAILS_OVER_WITHIN)
            assert eventually(lambda: said(worker, operation["id"], Phase.LOADING), within=BACK_WITHIN)
            worker.says(operation["id"], Phase.READY)
            received += list(stream)
    link.close()

    assert [each.event for each in received] == ["phase", "phase", "end"]
    assert numbers(received) == [2, 3, 4]


def test_an_unreachable_sentinel_is_skipped(watched):
    link = command_link(watched.url)
    watched.kill_sentinel(0)

    assert link.ping()
    link.close()


def test_the_error_names_sentinels_that_know_no_master_or_refuse_authentication(watched):
    shut_out = command_link(watched.url.replace("sentinel_password=", "sentinel_password=wrong"))
    mistaken = command_link(watched.url.replace("master=aima", "master=other"))

    with pytest.raises(BrokerUnavailable, match="refuse the connection") as refused:
        shut_out.ping()
    with pytest.raises(BrokerUnavailable, match="name no master that is up\\."):
        mistaken.ping()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "lacks"),
    [
        ("sentinel://:secret@one:26379,two", "the master's name is missing"),
        ("sentinel://:secret@one/none?master=aima", "is no database"),
        ("sentinel://:secret@one?master=aima&pasword=secret", "'pasword' is no option"),
        ("http://:secret@one", "an address begins with `redis://`"),
    ],
)
def test_an_invalid_address_is_refused_without_printing_its_password(url, lacks):
    with pytest.raises(BadSettings) as refused:
        load_settings(redis={"url": url})

    assert lacks in str(refused.value)
    assert "secret" not in str(refused.value)


def said(worker: ScriptedWorker, operation: str, phase: Phase) -> bool:
    try:
        return bool(worker.says(operation, phase))
    except BrokerUnavailable:
        return False
