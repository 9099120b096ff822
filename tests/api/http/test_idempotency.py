"""Idempotency keys: a retried request is executed once."""

from __future__ import annotations

import pytest
from api.node import SERVICE

from aima_api.http.idempotency import Idempotency, OwnedKey
from aima_api.http.schemas import ServiceOptions
from aima_core.errors import BrokerUnavailable, RequestInProgress
from aima_core.store.operations import OperationStore

pytestmark = pytest.mark.redis

START = f"/v1/services/{SERVICE}:start"
KEY = {"Idempotency-Key": "a-key"}
OWNED = OwnedKey("(local)", "a-key")


@pytest.fixture
def idempotency(redis):
    return Idempotency(redis, OperationStore(redis))


def test_a_start_repeated_under_its_key_returns_the_first_operations(node, worker):
    first, again = (node.post(START, {"port": 20001}, headers=KEY) for _ in range(2))

    assert again.status_code == 202
    assert again.json()["operations"][0]["id"] == first.json()["operations"][0]["id"]
    assert len(node.get("/v1/operations").json()["items"]) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [(START, {"port": 20002}), (f"/v1/services/{SERVICE}:stop", {"hosts": []}), ("/v1/images:pull", {"image": "a:1"})],
)
def test_a_key_reused_for_another_request_is_refused(node, worker, path, body):
    node.post(START, {"port": 20001}, headers=KEY)

    answer = node.post(path, body, headers=KEY)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "a-key" in answer.json()["detail"]


def test_a_request_repeated_while_the_first_one_runs_is_refused_as_in_progress(idempotency):
    def during_the_first():
        with pytest.raises(RequestInProgress):
            idempotency.once(OWNED, "start", ServiceOptions(), list)
        return []

    assert idempotency.once(OWNED, "start", ServiceOptions(), during_the_first) == []


def test_a_failed_request_can_be_repeated(idempotency):
    def fail():
        raise BrokerUnavailable(detail="for once")

    with pytest.raises(BrokerUnavailable):
        idempotency.once(OWNED, "start", ServiceOptions(), fail)

    assert idempotency.once(OWNED, "start", ServiceOptions(), list) == []


@pytest.mark.parametrize("key", ["", "two words", "x" * 201])
def test_a_malformed_key_is_refused(node, key):
    answer = node.post(START, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
