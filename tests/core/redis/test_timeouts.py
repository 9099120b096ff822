"""Every Redis client comes from a factory, and each factory sets timeouts."""

from __future__ import annotations

import ast
import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from aima_api.flower import REDIS_TIMEOUT as FLOWER_TIMEOUT
from aima_api.logs.channel import LogChannelClient
from aima_core.domain.ids import HostName, ServiceId
from aima_core.errors import BrokerUnavailable
from aima_core.queue.celery_app import RECONNECT_INTERVAL, celery_app
from aima_core.redis.connection import MOST_FOLLOWED, command_link, following_link
from aima_worker.app import REDIS_TIMEOUT

pytestmark = pytest.mark.redis

ROOT = Path(__file__).parents[3]
MODULES = [path for package in ("aima_core", "aima_worker", "aima_api") for path in (ROOT / package).rglob("*.py")]
FACTORIES = "aima_core/redis/connection.py"
ONE = "redis://:secret@127.0.0.1:1/0"
TLS = "rediss://:secret@127.0.0.1:1/0"
BY_SENTINELS = "sentinel://:secret@127.0.0.1:1,127.0.0.1:2/0?master=aima&sentinel_password=other"
BY_SENTINELS_OVER_TLS = BY_SENTINELS.replace("sentinel:", "sentinels:")
ADDRESSES = (ONE, TLS, BY_SENTINELS, BY_SENTINELS_OVER_TLS)
INSTANCE = ServiceId("svc-tiny-dial").on(HostName("alpha"))
MAKERS = {"Redis", "StrictRedis", "from_url", "ConnectionPool", "Sentinel", "AsyncRedis", "RedisLink"}


def test_redis_clients_are_created_in_one_module():
    makers = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and called(node) in MAKERS
    }

    assert makers == {FACTORIES}


@pytest.mark.parametrize("url", ADDRESSES)
def test_a_command_connection_has_timeouts(url):
    pool = command_link(url).connection_pool

    assert 0 < pool.connection_kwargs["socket_timeout"] <= 2
    assert 0 < pool.connection_kwargs["socket_connect_timeout"] <= 1
    assert_tls_is_verified(pool, url)
    for sentinel in sentinels_of(pool):
        assert_short_limits(sentinel.connection_pool.connection_kwargs, password="other")


@pytest.mark.parametrize("url", ADDRESSES)
def test_a_subscription_connects_with_a_timeout_and_reads_without_one(url):
    pool = following_link(url).connection_pool

    assert 0 < pool.connection_kwargs["socket_connect_timeout"] <= 1
    assert pool.connection_kwargs["health_check_interval"]
    assert pool.max_connections == MOST_FOLLOWED
    assert_tls_is_verified(pool, url)
    for sentinel in sentinels_of(pool):
        assert_short_limits(sentinel.connection_pool.connection_kwargs, password="other")


@pytest.mark.parametrize("answer_within", [REDIS_TIMEOUT.total_seconds(), FLOWER_TIMEOUT.total_seconds()])
@pytest.mark.parametrize("url", ADDRESSES)
def test_celery_gets_the_timeouts_that_its_transport_supports(url, answer_within):
    app = celery_app(url, answer_within=timedelta(seconds=answer_within))
    reported = app.conf.broker_transport_options

    known = {*app.connection_for_read().transport.Channel.from_transport_options, "polling_interval"}
    assert set(reported) <= known
    assert reported["polling_interval"] < reported["socket_timeout"] <= 10
    assert 0 < reported["socket_connect_timeout"] <= 2
    assert reported["health_check_interval"]
    if "sentinel" in url:
        assert_short_limits(reported["sentinel_kwargs"], password="other")
        assert reported["master_name"] == "aima"
        assert (app.conf.broker_use_ssl is not None) is url.startswith("sentinels")


def test_connections_of_celery_have_those_timeouts(a_redis):
    app = celery_app(a_redis().url, answer_within=REDIS_TIMEOUT)

    with app.connection_for_read() as connection:
        channel = connection.default_channel
        for pool in (channel.pool, channel.async_pool):
            assert pool.connection_kwargs["socket_timeout"] == REDIS_TIMEOUT.total_seconds()
            assert pool.connection_kwargs["socket_connect_timeout"] == 2


def test_a_command_over_a_subscription_connection_times_out_when_redis_is_frozen(a_redis):
    server = a_redis()

    async def asked() -> float:
        link = LogChannelClient(following_link(server.url))
        assert await link.last_lines(INSTANCE) is None
        server.freeze()
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await link.last_lines(INSTANCE)
        took = time.monotonic() - began
        await link.close()
        return took

    assert asyncio.run(asked()) < 5


def test_a_worker_retries_for_longer_than_celery_by_default(a_redis):
    server = a_redis()
    server.kill()
    app = celery_app(server.url, answer_within=timedelta(seconds=1))
    tries = count(1)

    def reported(error: Exception, pause: float) -> None:
        if next(tries) == 150:  # Celery's default is 100 retries, 46 minutes
            server.start()

    with app.connection_for_read() as connection:
        connection.ensure_connection(
            reported, app.conf.broker_connection_max_retries, interval_start=0, interval_step=0
        )

        assert connection.connected
    assert next(tries) > 150


def test_the_backoff_between_retries_is_bounded(a_redis, monkeypatch):
    pauses: list[float] = []
    app = celery_app(ONE, answer_within=timedelta(seconds=1))

    class Enough(Exception):
        pass

    def reported(error: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 5:
            raise Enough

    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    with app.connection_for_read() as connection, suppress(Enough):
        connection.ensure_connection(reported, None)

    assert max(pauses) == RECONNECT_INTERVAL.total_seconds()


def called(call: ast.Call) -> str:
    return getattr(call.func, "attr", None) or getattr(call.func, "id", "")


def sentinels_of(pool):
    manager = getattr(pool, "sentinel_manager", None)
    return manager.sentinels if manager else []


def assert_short_limits(reported, *, password):
    assert 0 < reported["socket_timeout"] <= 0.5
    assert 0 < reported["socket_connect_timeout"] <= 0.5
    assert reported["retry"].get_retries() == 0
    assert reported["password"] == password


def assert_tls_is_verified(pool, url):
    over_tls = url.startswith(("rediss", "sentinels"))
    assert ("SSL" in pool.connection_class.__name__) is over_tls
    if over_tls:
        assert pool.connection_kwargs["ssl_cert_reqs"] == "required"
