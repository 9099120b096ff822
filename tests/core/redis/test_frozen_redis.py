"""A frozen Redis or a dead connection to it: requests are answered within five seconds, and work resumes afterwards."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker, api_node, numbers
from lab.commands import a_pull, enqueue_signed
from lab.parts import eventually
from lab.proxy import proxy
from lab.redis_server import RedisServer

from aima_api.app import THREADS
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Phase, State
from aima_core.errors import BrokerUnavailable
from aima_core.redis.connection import command_link
from aima_core.store.claims import Claimed, ClaimStore
from aima_core.store.operations import OperationStore, now

pytestmark = pytest.mark.redis

ANSWERED_WITHIN = 5.0
WITHOUT_REDIS = {
    "/healthz",
    "/metrics",
    "/v1/catalog",
    "/v1/catalog:reload",
    "/v1/engines",
    "/v1/engines/{name}",
    "/v1/gateways",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/models/{name}:pull",  # looks for the model in the catalog first
}
BODIES = {
    "/v1/images:pull": {"image": "a:1"},
    "/v1/images:remove": {"unused": True},
    "/v1/services": {"id": SERVICE},
    "/v1/services:plan": {"services": [{"id": SERVICE}]},
    "/v1/aliases/alpha": {"targets": {SERVICE: 1}},
    "/v1/apply": {"documents": [{"kind": "service", "id": SERVICE}]},
    "/v1/apply:plan": {"documents": [{"kind": "service", "id": SERVICE}]},
    "/v1/keys": {"name": "ci", "scopes": ["read"]},
}


@contextmanager
def frozen(server: RedisServer) -> Iterator[str]:
    server.freeze()
    try:
        yield server.url
    finally:
        server.thaw()


@pytest.fixture
def redis(a_redis):
    """With a password, so that a new connection waits for a reply before its first command."""
    server = a_redis(requirepass="secret")
    link = command_link(server.url)
    ScriptedWorker(link)
    link.close()
    return server


def test_every_route_answers_in_time_while_redis_is_frozen_even_concurrently(redis):
    with api_node(redis.url) as node:
        operation = node.start()[0]["id"]
        routes = list(routes_that_need_redis(node, operation))

        with frozen(redis), ThreadPoolExecutor(len(routes)) as at_once:
            answers = list(at_once.map(lambda route: timed(node, *route), routes))
            alive, took_alive = timed(node, "GET", "/healthz")

        for route, (answer, took) in zip(routes, answers, strict=True):
            assert (route, answer.status_code, answer.json()["code"]) == (route, 503, "broker_unavailable")
            assert took < ANSWERED_WITHIN, route
        assert len(routes) > 20
        assert (alive.status_code, took_alive < 1) == (200, True)
        assert eventually(lambda: node.get("/readyz").status_code == 200)


def test_an_api_node_whose_first_request_finds_redis_frozen_answers_in_time(redis):
    with api_node(redis.url) as node, frozen(redis):
        hosts, took = timed(node, "GET", "/v1/hosts")
        ready, _ = timed(node, "GET", "/readyz")

        assert (hosts.status_code, ready.status_code) == (503, 503)
        assert "timed out" in ready.json()["detail"]
        assert took < ANSWERED_WITHIN


def test_more_requests_than_threads_are_answered_in_time(redis):
    requests = THREADS + 32  # and no more than the client has connections, for which requests would wait
    with api_node(redis.url) as node, frozen(redis), ThreadPoolExecutor(requests) as at_once:
        answers = list(at_once.map(lambda _: timed(node, "GET", "/v1/hosts"), range(requests)))

    assert {answer.status_code for answer, _ in answers} == {503}
    assert max(took for _, took in answers) < ANSWERED_WITHIN


def test_requests_over_a_dead_connection_are_answered_in_time_and_the_connection_is_replaced(redis):
    with proxy(redis.port) as line, api_node(redis.url.replace(str(redis.port), str(line.port))) as node:
        assert node.get("/v1/hosts").status_code == 200

        line.freeze_after = line.carried
        answer, took = timed(node, "GET", "/v1/hosts")
        line.freeze_after = None

        assert (answer.status_code, took < ANSWERED_WITHIN) == (503, True)
        assert eventually(lambda: node.get("/v1/hosts").status_code == 200)


def test_a_silently_dead_connection_costs_one_timeout_and_no_failure(redis):
    with proxy(redis.port) as line, api_node(redis.url.replace(str(redis.port), str(line.port))) as node:
        assert node.get("/v1/hosts").status_code == 200
        line.freeze_what_stands()

        answer, took = timed(node, "GET", "/v1/hosts")

        assert (answer.status_code, took < ANSWERED_WITHIN) == (200, True)


def test_a_redis_that_timed_out_is_probed_again_only_after_a_short_delay(redis):
    link = command_link(redis.url)
    with frozen(redis):
        with pytest.raises(BrokerUnavailable):
            link.ping()
        with pytest.raises(BrokerUnavailable, match="timed out a moment ago"):  # without a further wait
            link.ping()

    assert eventually(lambda: answers(link))
    link.close()


def test_an_open_stream_sends_keepalives_and_continues_after_the_thaw_without_a_gap(redis):
    link = command_link(redis.url)
    worker = ScriptedWorker(link)
    with api_node(redis.url) as node:
        [operation] = node.start()
        worker.claim_start(operation["id"])
        with node.following(operation["id"]) as stream:
            received = [next(stream)]
            listening = Thread(target=lambda: received.extend(stream))
            listening.start()
            worker.says(operation["id"], Phase.STARTING)

            with frozen(redis):
                assert timed(node, "GET", "/readyz")[0].status_code == 503
                with pytest.raises(BrokerUnavailable):
                    worker.says(operation["id"], Phase.LOADING)
            assert eventually(lambda: answers(link))
            worker.says(operation["id"], Phase.READY)
            listening.join(30)
    link.close()

    assert received[-1].event == "end"
    assert numbers(received) == list(range(1, len(received) + 1))


def test_an_event_retried_against_a_frozen_redis_is_appended_once(redis):
    link = command_link(redis.url)
    store = OperationStore(link)
    operation = enqueue_signed(store, a_pull())
    claimed = ClaimStore(link).claim(operation.id, HostName("alpha"))
    assert isinstance(claimed, Claimed)
    store.append_event(Event(operation=operation.id, at=now(), phase=Phase.PULLING), attempt=claimed.attempt)
    event = Event(operation=operation.id, at=now(), phase=Phase.PULLED)

    with frozen(redis), pytest.raises(BrokerUnavailable):
        store.append_event(event, attempt=claimed.attempt)
    assert eventually(lambda: answers(link))
    number = store.append_event(event, attempt=claimed.attempt)

    assert number == 3
    assert [each.phase for each in store.events(operation.id)] == [Phase.QUEUED, Phase.PULLING, Phase.PULLED]


def test_workers_wait_for_a_frozen_redis_and_continue(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    ids = asked.starts(6)
    assert eventually(lambda: any(map(asked.has_begun, ids)))

    with frozen(redis):
        assert eventually(lambda: "loop=heartbeat" in fleet.processes[0].log(), within=timedelta(seconds=60))

    assert asked.have_ended(ids, within=timedelta(seconds=90))
    assert {asked.store.get(id).state for id in ids} == {State.SUCCEEDED}
    assert set(fleet.made().values()) == {1}


def routes_that_need_redis(node: Node, operation: str) -> Iterator[tuple[str, str]]:
    for path, methods in node.get("/openapi.json").json()["paths"].items():
        if path in WITHOUT_REDIS:
            continue
        noun = path.split("/")[2].split(":")[0] if path.startswith("/v1/") else ""
        named = {"services": SERVICE, "operations": operation, "profiles": "nvidia-gb10"}.get(noun, "alpha")
        for method in methods:
            yield method.upper(), re.sub(r"\{\w+\}", named, path.replace("{revision}", "1"))


def timed(node: Node, method: str, path: str) -> tuple[Any, float]:
    began = time.monotonic()
    body = {"json": BODIES.get(path, {})} if method in ("POST", "PUT", "PATCH") else {}
    answer = node.client.request(method, path, **body)
    return answer, time.monotonic() - began


def answers(link: Any) -> bool:
    try:
        return bool(link.ping())
    except BrokerUnavailable:
        return False
