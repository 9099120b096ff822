"""TLS: every client verifies the certificate of Redis and of Sentinels: its authority and its name."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from lab.certificates import Certificate, certificate_in
from lab.parts import eventually, free_port, missing

from aima_core.errors import BrokerUnavailable
from aima_core.queue.celery_app import celery_app
from aima_core.redis.connection import command_link, following_link

pytestmark = pytest.mark.redis

ANSWERS_WITHIN = timedelta(seconds=2)
CONNECTS_WITHIN = timedelta(seconds=60)
ANOTHER_NAME = "DNS:redis.example"
MASTER = "aima"
UNREACHABLE = "[Nn]o master"
"""The clients do not say why a Sentinel is refused."""


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return certificate_in(tmp_path / "certificates")


@pytest.fixture
def another_name_s(tmp_path: Path) -> Certificate:
    """A certificate of an authority that the client trusts, for another name."""
    return certificate_in(tmp_path / "other-certificates", name=ANOTHER_NAME)


@pytest.fixture
def over_tls(a_redis: Callable[..., object]) -> Callable[[Certificate], int]:
    """Starts a Redis that listens with TLS; returns its port."""

    def start(certificate: Certificate) -> int:
        port = free_port()
        try:
            a_redis(requirepass="secret", tls_port=str(port), tls_auth_clients="no", **tls_files(certificate))
        except AssertionError as refused:
            missing(f"this Redis speaks no TLS: {str(refused)[-200:]}")
        return port

    return start


@pytest.fixture
def sentinel_of(redis_server_program: Path, tmp_path: Path) -> Iterator[Callable[[int, Certificate], int]]:
    """Starts a Sentinel that listens with TLS and names the master at a port; returns its own port."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(master: int, certificate: Certificate) -> int:
        port, file = free_port(), tmp_path / "sentinel.conf"
        files = [f"{name.replace('_', '-')} {path}" for name, path in tls_files(certificate).items()]
        lines = ["port 0", f"tls-port {port}", "tls-auth-clients no", "tls-replication yes", *files]
        lines += [f"sentinel monitor {MASTER} 127.0.0.1 {master} 1", f"sentinel auth-pass {MASTER} secret"]
        file.write_text("\n".join([*lines, "bind 127.0.0.1", f"dir {tmp_path}"]) + "\n")
        log = (tmp_path / "sentinel.log").open("ab")
        with log:
            program = [str(redis_server_program), str(file), "--sentinel"]
            begun.append(subprocess.Popen(program, stdout=log, stderr=log))
        begins = lambda: b"+monitor master" in (tmp_path / "sentinel.log").read_bytes()  # noqa: E731 fits no line
        assert eventually(begins, within=CONNECTS_WITHIN)
        return port

    yield start
    for process in begun:
        process.kill()
        process.wait(10)


def rediss(port: int, **options: Path) -> str:
    return _with_options(f"rediss://:secret@127.0.0.1:{port}/0?", options).rstrip("?")


def sentinels(port: int, **options: Path) -> str:
    return _with_options(f"sentinels://:secret@127.0.0.1:{port}/0?master={MASTER}&", options).rstrip("&")


def _with_options(url: str, options: dict[str, Path]) -> str:
    return url + "&".join(f"{name}={value}" for name, value in options.items())


def tls_files(made: Certificate) -> dict[str, str]:
    files = {"tls_cert_file": made.certificate, "tls_key_file": made.key, "tls_ca_cert_file": made.authority}
    return {name: str(file) for name, file in files.items()}


# One server ---------------------------------------------------------------------------------------------------------


def test_every_client_uses_tls_with_a_server_whose_certificate_the_authority_signed(over_tls, certificate):
    assert all_answer(rediss(over_tls(certificate), ssl_ca_certs=certificate.authority))


def test_a_server_with_a_certificate_of_an_unknown_authority_is_refused(over_tls, certificate, another_name_s):
    assert_refused(rediss(over_tls(certificate), ssl_ca_certs=another_name_s.authority), "certificate verify failed")


def test_a_server_with_a_certificate_for_another_name_is_refused(over_tls, another_name_s):
    url = rediss(over_tls(another_name_s), ssl_ca_certs=another_name_s.authority)

    assert_refused(url, "certificate is not valid for '127.0.0.1'")


def test_a_server_without_a_certificate_is_refused(a_redis, certificate):
    plain = a_redis(requirepass="secret")

    assert_refused(rediss(plain.port, ssl_ca_certs=certificate.authority))


def test_without_an_authority_of_its_own_a_client_trusts_those_of_the_system(over_tls, certificate, monkeypatch):
    url = rediss(over_tls(certificate))
    assert_refused(url, "certificate verify failed")

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))

    assert all_answer(url)


# Sentinels ----------------------------------------------------------------------------------------------------------


def test_every_client_uses_tls_with_sentinels_and_with_the_master_they_name(over_tls, sentinel_of, certificate):
    port = sentinel_of(over_tls(certificate), certificate)

    assert all_answer(sentinels(port, ssl_ca_certs=certificate.authority))


def test_a_sentinel_with_a_certificate_of_an_unknown_authority_is_refused(
    over_tls, sentinel_of, certificate, another_name_s
):
    port = sentinel_of(over_tls(certificate), certificate)

    assert_refused(sentinels(port, ssl_ca_certs=another_name_s.authority), UNREACHABLE)
    assert_refused(sentinels(port), UNREACHABLE)


def test_a_sentinel_with_a_certificate_for_another_name_is_refused(over_tls, sentinel_of, certificate, another_name_s):
    port = sentinel_of(over_tls(certificate), another_name_s)

    assert_refused(sentinels(port, ssl_ca_certs=another_name_s.authority), UNREACHABLE)


def test_the_master_that_a_sentinel_names_is_refused_with_a_certificate_of_an_unknown_authority(
    over_tls, sentinel_of, certificate, another_name_s
):
    port = sentinel_of(over_tls(another_name_s), certificate)

    assert_refused(sentinels(port, ssl_ca_certs=certificate.authority), "certificate verify failed")


def test_without_an_authority_of_its_own_sentinels_need_one_of_the_system(
    over_tls, sentinel_of, certificate, monkeypatch
):
    port = sentinel_of(over_tls(certificate), certificate)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))

    assert all_answer(sentinels(port))


# The three clients --------------------------------------------------------------------------------------------------


def all_answer(url: str) -> bool:
    with closing_link(url) as link:
        commands = link.ping()
    with celery_app(url, answer_within=ANSWERS_WITHIN).connection_for_read() as connection:
        celery = connection.default_channel.client.ping()
    return bool(commands and celery and asyncio.run(followed(url)))


def assert_refused(url: str, reason: str | None = None) -> None:
    """By each of the clients of commands, of pub/sub, and of Celery."""
    with closing_link(url) as link, pytest.raises(BrokerUnavailable, match=reason):
        link.ping()
    with pytest.raises((TimeoutError, OSError)):  # it retries until it is stopped
        asyncio.run(followed(url, within=timedelta(milliseconds=500)))
    connection = celery_app(url, answer_within=ANSWERS_WITHIN).connection_for_read()
    with connection, pytest.raises(connection.connection_errors, match=reason):
        connection.connect()


@contextmanager
def closing_link(url: str) -> Iterator:
    link = command_link(url)
    try:
        yield link
    finally:
        link.close()


async def followed(url: str, *, within: timedelta = CONNECTS_WITHIN) -> bool:
    link = following_link(url)
    try:
        async with asyncio.timeout(within.total_seconds()):
            return bool(await link.ping())
    finally:
        await link.aclose()
