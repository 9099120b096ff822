"""Outages of Redis, stopped or frozen: every request is answered within its timeout, and works again afterwards."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from api.node import SERVICE, ScriptedWorker, api_node
from lab.parts import eventually

from aima_core.redis.connection import REPLY_TIMEOUT, command_link

pytestmark = pytest.mark.redis


@pytest.fixture
def few_threads(monkeypatch):
    """Of a node that is made after this: a few requests use them up."""
    monkeypatch.setattr("aima_api.app.THREADS", 8)
    return 8


@pytest.fixture
def node(own_redis):
    redis = command_link(own_redis.url)
    ScriptedWorker(redis)
    redis.close()
    with api_node(own_redis.url) as node:
        assert node.get("/v1/hosts").status_code == 200  # opens a connection that the outage breaks
        node.start()
        yield node


@contextmanager
def frozen(server) -> Iterator[None]:
    pid = server._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_requests_are_answered_within_five_seconds_while_redis_is_frozen(node, own_redis):
    paths = ["/readyz", "/v1/services", "/v1/hosts", f"/v1/services/{SERVICE}:start", "/v1/images:pull"]

    with frozen(own_redis), ThreadPoolExecutor(len(paths)) as at_once:
        answers = list(at_once.map(lambda path: timed(node, path), paths))

    for path, (answer, took) in zip(paths, answers, strict=True):
        assert (path, answer.status_code, answer.json()["code"]) == (path, 503, "broker_unavailable")
        assert took < 5, path
    assert eventually(lambda: node.get("/readyz").status_code == 200)


def test_many_requests_waiting_for_a_frozen_redis_do_not_block_the_liveness_check(few_threads, node, own_redis):
    address = ("127.0.0.1", int(node.url.rpartition(":")[2]))
    with frozen(own_redis), ExitStack() as open_ones:
        waiting = [
            open_ones.enter_context(socket.create_connection(address, timeout=10)) for _ in range(few_threads + 10)
        ]
        began = time.monotonic()
        for line in waiting:
            line.sendall(b"GET /v1/hosts HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert eventually(lambda: len(node.server.server_state.tasks) >= len(waiting))
        answer, took = timed(node, "/healthz")
        answers = [line.recv(65536) for line in waiting]
        slowest = time.monotonic() - began

    assert answer.status_code == 200
    assert took < REPLY_TIMEOUT.total_seconds()  # blocked, it waits until one of them has ended
    assert all(each.startswith(b"HTTP/1.1 503") for each in answers)
    assert slowest < 4 * REPLY_TIMEOUT.total_seconds()  # those that queue for a thread wait for no timeout of their own


def test_requests_fail_fast_while_redis_is_down_and_succeed_once_it_is_back(node, own_redis):
    own_redis.stop()
    away, took = timed(node, f"/v1/services/{SERVICE}:start")
    own_redis.start()

    back = node.post(f"/v1/services/{SERVICE}:start")

    assert (away.status_code, away.json()["code"]) == (503, "broker_unavailable")
    assert away.headers["retry-after"]
    assert took < 5
    assert back.status_code == 202


def test_a_request_answered_with_503_during_a_freeze_is_not_executed_later(node, own_redis):
    before = len(node.get("/v1/operations").json()["items"])

    with frozen(own_redis):
        answer, _ = timed(node, f"/v1/services/{SERVICE}:start")

    assert answer.status_code == 503
    assert eventually(lambda: node.get("/readyz").status_code == 200)
    assert len(node.get("/v1/operations").json()["items"]) == before


def timed(node, path: str):
    began = time.monotonic()
    body = {"image": "a:1"} if path.endswith("pull") else {}
    answer = node.post(path, body) if ":" in path else node.get(path)
    return answer, time.monotonic() - began
