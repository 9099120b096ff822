"""TLS: every client verifies the certificate against the authority in the address."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from lab.certificates import certificate_in
from lab.parts import free_port, missing

from aima_core.errors import BrokerUnavailable
from aima_core.queue.celery_app import celery_app
from aima_core.redis.connection import command_link, following_link

pytestmark = pytest.mark.redis

ANSWERS_WITHIN = timedelta(seconds=2)


@pytest.fixture
def over_tls(a_redis, tmp_path):
    """The port of a Redis with TLS, and the certificate file of the authority that signed it."""
    made, port = certificate_in(tmp_path / "certificates"), free_port()
    files = {"tls_cert_file": made.certificate, "tls_key_file": made.key, "tls_ca_cert_file": made.authority}
    try:
        a_redis(
            requirepass="secret", tls_port=str(port), tls_auth_clients="no", **{k: str(v) for k, v in files.items()}
        )
    except AssertionError as refused:
        missing(f"this Redis speaks no TLS: {str(refused)[-200:]}")
    return f"rediss://:secret@127.0.0.1:{port}/0", made.authority


def test_every_client_uses_tls_with_a_server_whose_certificate_the_authority_signed(over_tls):
    url = f"{over_tls[0]}?ssl_ca_certs={over_tls[1]}"

    assert command_link(url).ping()
    assert asyncio.run(followed(url))
    with celery_app(url, answer_within=timedelta(seconds=2)).connection_for_read() as connection:
        assert connection.default_channel.client.ping()


def test_a_server_with_a_certificate_of_an_unknown_authority_is_refused(over_tls):
    url, _ = over_tls

    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        command_link(url).ping()
    with pytest.raises(TimeoutError):  # it retries until it is stopped
        asyncio.run(followed(url))
    connection = celery_app(url, answer_within=timedelta(seconds=2)).connection_for_read()
    with connection, pytest.raises(connection.connection_errors, match="certificate verify failed"):
        connection.connect()


async def followed(url: str) -> bool:
    link = following_link(url)
    try:
        async with asyncio.timeout(ANSWERS_WITHIN.total_seconds()):
            return bool(await link.ping())
    finally:
        await link.aclose()
