"""Limits of a node: open event streams, the backlog of operations, and readers that no longer read."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from api.node import SERVICE, ScriptedWorker, api_node
from lab.parts import eventually

from aima_api.http.sse import OpenStreams
from aima_api.submission.submitter import BACKLOG_COUNT_INTERVAL
from aima_core.domain.operations import Phase

pytestmark = pytest.mark.redis


@pytest.fixture
def worker(redis):
    return ScriptedWorker(redis)


# Streams -----------------------------------------------------------------------------------------------------------


def test_streams_beyond_the_limit_of_a_node_are_refused_and_open_ones_continue(redis_url, worker):
    with api_node(redis_url, streams=2) as node, ExitStack() as open_ones:
        [operation] = node.start()
        worker.claim_start(operation["id"])
        first = open_ones.enter_context(node.following(operation["id"]))
        open_ones.enter_context(node.following(None))

        refused = [node.get(f"/v1/operations/{operation['id']}/events"), node.get("/v1/events")]
        refused += [node.get(f"/v1/services/{SERVICE}/logs?follow=true")]
        worker.says(operation["id"], Phase.READY, endpoint="http://127.0.0.1:20000")
        received = list(first)

    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(429, "too_many_streams")] * 3
    assert {answer.headers["retry-after"] for answer in refused} == {"5"}
    assert received[-1].event == "end"


def test_an_ended_or_disconnected_stream_frees_its_slot(redis_url, worker):
    with api_node(redis_url, streams=1) as node:
        [operation] = node.start()
        worker.claim_start(operation["id"])
        for _ in range(3):
            with node.following(operation["id"]) as stream:
                next(stream)
            assert eventually(lambda: len(node.server.open_streams) == 0)
        worker.says(operation["id"], Phase.READY, endpoint="http://127.0.0.1:20000")

        assert node.received(operation["id"])[-1].event == "end"
        assert eventually(lambda: len(node.server.open_streams) == 0)


def test_a_client_that_stops_reading_is_disconnected(redis_url, worker):
    with api_node(redis_url) as node, socket.socket() as deaf:
        open_streams = OpenStreams(most=10, send_timeout=timedelta(milliseconds=300))
        state = node.server.config.app.state
        state.dependencies = replace(state.dependencies, open_streams=open_streams)
        [operation] = node.start()
        worker.claim_start(operation["id"])
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", int(node.url.rpartition(":")[2])))
        deaf.sendall(f"GET /v1/operations/{operation['id']}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert eventually(lambda: node.server.hub.listeners == 1)

        for _ in range(1000):
            worker.says(operation["id"], lines=("x" * 8000,))

        let_go = eventually(lambda: node.server.hub.listeners == len(open_streams) == 0)

    assert let_go


# Operations --------------------------------------------------------------------------------------------------------


def test_starts_and_pulls_beyond_the_limit_leave_nothing_and_stops_are_accepted(redis, redis_url, worker):
    ScriptedWorker(redis, "beta")
    with api_node(redis_url, operations=1) as node:
        node.start(hosts=["alpha"])

        start = node.post(f"/v1/services/{SERVICE}:start", {"hosts": ["beta"]})
        pull = node.post("/v1/images:pull", {"image": "repo/name:1", "hosts": ["alpha"]})
        asked = node.get(f"/v1/services/{SERVICE}").json()
        stop = node.post(f"/v1/services/{SERVICE}:stop")

    refused = [(answer.status_code, answer.json()["code"]) for answer in (start, pull)]
    assert refused == [(429, "too_many_operations")] * 2
    assert start.headers["retry-after"] == "5"
    assert asked["hosts"] == ["alpha"]
    assert [each["id"] for each in asked["instances"]] == [f"{SERVICE}@alpha"]
    assert stop.status_code == 202


def test_ended_operations_no_longer_count_against_the_limit(redis_url, worker):
    with api_node(redis_url, operations=1) as node:
        [operation] = node.start()
        worker.is_ready(operation)

        began = eventually(
            lambda: node.post(f"/v1/services/{SERVICE}:start").status_code == 202, within=30 * BACKLOG_COUNT_INTERVAL
        )

    assert began
