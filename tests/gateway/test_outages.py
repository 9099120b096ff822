"""Redis and all API nodes away: what is known is served on, keys included; a gateway that starts answers 503."""

from __future__ import annotations

from datetime import timedelta
from threading import Event, Thread

import pytest
from lab.commands import KEYS, SIGNING_KEY
from lab.gateways import Fleet, gateway
from lab.parts import eventually

from aima_api.access.keys import KeyOptions, KeyStore
from aima_api.gateway.certification import RENEWALS
from aima_core.redis.connection import command_link
from aima_core.settings import GatewaySettings
from aima_core.trust.keys import SigningKey

CHAT, BODY = "/v1/chat/completions", {"model": "dial", "messages": [{"role": "user", "content": "x"}]}
SETTINGS_KEY = "a-key-of-the-settings"
OUTAGE = timedelta(minutes=10)
pytestmark = pytest.mark.redis


@pytest.fixture
def link(own_redis):
    made = command_link(own_redis.url)
    yield made
    made.close()


@pytest.fixture
def key(link):
    options = KeyOptions(name="app", scopes=("infer",))
    return KeyStore(link, KEYS).create(options, expires=None, by="test", signing_key=SigningKey(SIGNING_KEY))[0]


class Load:
    """Requests, one after the other, until it is stopped."""

    def __init__(self, running, key: str) -> None:
        self.statuses: list[int] = []
        self._running = running
        self._headers = {"authorization": f"Bearer {key}"}
        self._ended = Event()
        self._thread = Thread(target=self._send, name="load")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def has_sent(self, number: int) -> bool:
        return eventually(lambda: len(self.statuses) >= number)

    def _send(self) -> None:
        while not self._ended.is_set():
            self.statuses.append(self._running.client.post(CHAT, json=BODY, headers=self._headers).status_code)


@pytest.mark.parametrize("loses_data", [False, True])
def test_restarts_of_redis_fail_no_request(own_redis, link, key, engine, loses_data):
    Fleet(link).serves(engine)
    link.set("aima:epoch", "one")
    with gateway(own_redis.url, keys=(SETTINGS_KEY,)) as running, Load(running, key) as load:
        for number in range(1, 4):
            assert load.has_sent(30 * number)
            own_redis.stop()
            assert load.has_sent(30 * number + 15)
            own_redis.start()
            if loses_data:
                own_redis.empty()

    assert set(load.statuses) == {200}


@pytest.mark.long
@pytest.mark.timeout(720)
def test_ten_minutes_without_redis_fail_no_request(own_redis, link, key, engine):
    Fleet(link).serves(engine)
    with gateway(own_redis.url, keys=(SETTINGS_KEY,)) as running, Load(running, key) as load:
        assert load.has_sent(30)
        own_redis.stop()
        assert not eventually(lambda: set(load.statuses) != {200}, within=OUTAGE)

    assert len(load.statuses) > OUTAGE.total_seconds()


def test_a_certificate_and_the_routing_table_outlast_ten_minutes_without_redis_and_api_nodes():
    keys_for = GatewaySettings().keys_for

    assert keys_for > OUTAGE
    assert keys_for - keys_for / RENEWALS >= OUTAGE


def test_a_gateway_that_starts_during_an_outage_is_unavailable_and_not_unauthorized(own_redis, link, key, engine):
    Fleet(link).serves(engine)
    own_redis.stop()
    with gateway(own_redis.url, keys=(SETTINGS_KEY,)) as running:
        headers = {"authorization": f"Bearer {key}"}
        during = running.client.post(CHAT, json=BODY, headers=headers)
        ready = running.client.get("/readyz")
        assert (during.status_code, during.json()["error"]["code"]) == (503, "broker_unavailable")
        assert (ready.status_code, running.client.get("/healthz").status_code) == (503, 200)
        assert "retry-after" in during.headers

        own_redis.start()

        assert eventually(lambda: running.client.post(CHAT, json=BODY, headers=headers).status_code == 200)
        assert running.client.get("/readyz").json()["models"] == ["dial", "svc-tiny-dial"]


def test_drained_instances_get_nothing_new_and_fail_no_request(redis_url, fleet, engine):
    fleet.serves(engine, "svc-tiny-dial@alpha")
    fleet.serves(engine, "svc-tiny-dial@beta")
    with gateway(redis_url) as running, Load(running, "sk-unused") as load:
        for number in range(20):
            drained, other = ("alpha", "beta")[number % 2], ("beta", "alpha")[number % 2]
            fleet.stops(f"svc-tiny-dial@{drained}")
            assert eventually(lambda only=other: hosts(running) == {only})
            fleet.serves(engine, f"svc-tiny-dial@{drained}")
            assert eventually(lambda: hosts(running) == {"alpha", "beta"})

    assert set(load.statuses) == {200}


def hosts(running) -> set[str]:
    return {backend.instance.partition("@")[2] for backend in running.server.table.backends}
