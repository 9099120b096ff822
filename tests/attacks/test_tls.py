"""Between client and node: a wrong authority, name or date is refused, and no key crosses a network in clear text."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from api.node import SERVICE, Node, ScriptedWorker, api_node
from lab.certificates import Certificate, certificate_in
from lab.commands import SIGNING_KEY
from lab.gateways import Fleet, gateway
from lab.parts import eventually, received
from lab.running import Aima
from lab.scripted_engine import engine_thread

from aima_api.app import create_app
from aima_api.cli.main import run
from aima_api.client import Api, ApiError, verifying
from aima_api.doctor.checks import CheckStatus, findings
from aima_api.http import connections
from aima_api.http.tls import ReloadingCertificate
from aima_core.domain.operations import Phase
from aima_core.errors import ApiUnavailable, BadSettings, UntrustedCertificate
from aima_core.redis.connection import RedisClient
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings, load_settings

KEY = "a key of sixteen characters"
SHORT = timedelta(milliseconds=400)
SOON = timedelta(seconds=60)


@pytest.fixture
def made(tmp_path: Path) -> Certificate:
    return certificate_in(tmp_path / "certificates")


@pytest.fixture
def node(redis_url: str, made: Certificate) -> Iterator[Node]:
    """A node that serves TLS; its `url` is the https one."""
    tls = {"certificate": made.certificate, "key": made.key}
    with api_node(redis_url, tls=tls, keys=[KEY]) as node:
        yield Node(node.url.replace("http:", "https:"), node.client, node.server)


def client(url: str, authority: Path | None) -> Api:
    return Api(url, key=KEY, tls=verifying(str(authority)) if authority else None)


# Verification ------------------------------------------------------------------------------------------------------


@pytest.mark.redis
def test_requests_and_event_streams_work_over_tls(node: Node, made: Certificate, redis: TextRedis) -> None:
    worker = ScriptedWorker(redis)
    with client(node.url, made.authority) as api:
        [operation] = api.post(f"/v1/services/{SERVICE}:start")["operations"]
        worker.claim_start(operation["id"])
        worker.says(operation["id"], lines=("x" * 100_000,))
        worker.says(operation["id"], Phase.READY, endpoint="http://127.0.0.1:20000")
        with api.stream(f"/v1/operations/{operation['id']}/events", after=0) as events:
            assert [each.event for each in events][-1] == "end"


@pytest.mark.redis
def test_a_certificate_of_another_authority_is_refused(node: Node, tmp_path: Path) -> None:
    other = certificate_in(tmp_path / "of-the-attacker").authority

    for authority in (other, None):
        with client(node.url, authority) as api, pytest.raises(UntrustedCertificate) as refused:
            api.get("/v1/hosts")
        assert "local issuer" in str(refused.value)
        assert "--ca" in refused.value.failure.hint


@pytest.mark.redis
def test_a_certificate_of_another_name_is_refused(node: Node, made: Certificate) -> None:
    elsewhere = node.url.replace("127.0.0.1", "localhost")

    with client(elsewhere, made.authority) as api, pytest.raises(UntrustedCertificate, match="localhost"):
        api.get("/v1/hosts")


@pytest.mark.redis
def test_an_expired_certificate_is_refused(node: Node, made: Certificate) -> None:
    made.renew(days=-1)

    with client(node.url, made.authority) as api, pytest.raises(UntrustedCertificate, match="expired"):
        api.get("/v1/hosts")


@pytest.mark.redis
def test_the_command_line_verifies_with_the_authority_that_it_is_given(
    node: Node, made: Certificate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIMA_KEY", KEY)
    monkeypatch.setenv("AIMA_URL", node.url)

    assert run(["host", "list"]) == UntrustedCertificate.exit_code
    assert run(["--ca", str(made.authority), "host", "list"]) == 0
    assert run(["--ca", str(made.key), "host", "list"]) == BadSettings.exit_code
    monkeypatch.setenv("AIMA_CA", str(made.authority))
    assert run(["host", "list"]) == 0
    assert "Name the authority" in capsys.readouterr().err


@pytest.mark.redis
def test_a_mistaken_scheme_is_named(node: Node, made: Certificate, redis_url: str) -> None:
    with client(node.url.replace("https:", "http:"), None) as api, pytest.raises(ApiError) as refused:
        api.get("/v1/hosts")
    assert refused.value.failure.code == "plain_request"
    assert "https://" in refused.value.failure.hint

    with (
        api_node(redis_url) as plain,
        client(plain.url.replace("http:", "https:"), made.authority) as api,
        pytest.raises(ApiUnavailable, match="write http://"),
    ):
        api.get("/v1/hosts")


@pytest.mark.redis
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(node: Node, made: Certificate) -> None:
    old = ssl.create_default_context(cafile=str(made.authority))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1

    with closing(connected(node)) as line, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(line, server_hostname="127.0.0.1")

    assert ReloadingCertificate(made.certificate, made.key).context().minimum_version is ssl.TLSVersion.TLSv1_2


# Renewal -----------------------------------------------------------------------------------------------------------


@pytest.mark.redis
def test_a_renewed_certificate_is_served_and_open_streams_stay(node: Node, made: Certificate, redis: TextRedis) -> None:
    worker, before = ScriptedWorker(redis), served(node, made)
    with client(node.url, made.authority) as api:
        [operation] = api.post(f"/v1/services/{SERVICE}:start")["operations"]
        worker.claim_start(operation["id"])
        with api.stream(f"/v1/operations/{operation['id']}/events", after=0) as events:
            next(events)
            made.renew()
            renewed = served(node, made)
            worker.says(operation["id"], Phase.READY, endpoint="http://127.0.0.1:20000")

            assert [each.event for each in events][-1] == "end"

    assert renewed != before
    assert ssl.PEM_cert_to_DER_cert(made.certificate.read_text()) == renewed


@pytest.mark.redis
def test_a_broken_renewal_leaves_the_certificate_in_use(node: Node, made: Certificate) -> None:
    before, key = served(node, made), made.key.read_text()

    for wrong in ("", "no key", None):
        made.key.write_text(wrong) if wrong is not None else made.key.unlink()
        assert served(node, made) == before
    made.key.write_text(key)
    assert served(node, made) == before
    made.renew()
    assert served(node, made) != before


# Handshakes --------------------------------------------------------------------------------------------------------


@pytest.mark.redis
def test_connections_without_a_handshake_are_counted_and_cut(
    redis_url: str, made: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_TIMEOUT", SHORT)
    tls = {"certificate": made.certificate, "key": made.key}
    with api_node(redis_url, tls=tls, connections_per_address=5) as node, ExitStack() as open_ones:
        lines = [open_ones.enter_context(closing(connected(node))) for _ in range(8)]
        lines[0].sendall(b"\x16\x03\x01")
        lines[1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert all(is_cut(line) for line in lines)
        assert eventually(lambda: len(node.server.limits) == 0, within=SOON)
        monkeypatch.setattr(connections, "HANDSHAKE_TIMEOUT", SOON)  # a handshake of a busy machine takes longer
        with client(node.url.replace("http:", "https:"), made.authority) as api:
            assert api.get("/healthz") == {"status": "alive"}


@pytest.mark.redis
def test_connections_over_the_limit_are_closed_before_their_handshake(
    redis_url: str, made: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_TIMEOUT", timedelta(minutes=1))
    tls = {"certificate": made.certificate, "key": made.key}
    with api_node(redis_url, tls=tls, connections_per_address=3) as node, ExitStack() as open_ones:
        url = node.url.replace("http:", "https:")
        lines = [open_ones.enter_context(closing(connected(node))) for _ in range(3)]
        assert eventually(lambda: len(node.server.limits) == 3, within=SOON)
        over = [open_ones.enter_context(closing(connected(node))) for _ in range(2)]

        assert [received(line) for line in over] == [b"", b""]
        with client(url, made.authority) as api, pytest.raises(ApiUnavailable):
            api.get("/healthz")
        lines[0].close()
        assert eventually(lambda: len(node.server.limits) == 2, within=SOON)
        authority = ssl.create_default_context(cafile=made.authority)
        counted = httpx2.get(f"{url}/metrics", verify=authority).text

    assert 'reason="too many of its address"} 3.0' in counted
    assert 'reason="no TLS handshake"} 1.0' in counted


@pytest.mark.redis
def test_a_slow_request_over_tls_is_cut(redis_url: str, made: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECEIVE_TIMEOUT", "SWEEP_INTERVAL"):
        monkeypatch.setattr(connections, name, SHORT)
    with api_node(redis_url, tls={"certificate": made.certificate, "key": made.key}) as node:
        with verifying(str(made.authority)).wrap_socket(connected(node), server_hostname="127.0.0.1") as line:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")

            assert received(line).startswith(b"HTTP/1.1 408 ")
        assert eventually(lambda: len(node.server.limits) == 0, within=SOON)


# Settings ----------------------------------------------------------------------------------------------------------


def test_a_bind_beyond_loopback_wants_tls_or_an_explicit_plain(made: Certificate) -> None:
    tls = {"certificate": made.certificate, "key": made.key}

    with pytest.raises(BadSettings) as refused:
        create_app(settings(bind="0.0.0.0", keys=[KEY]))

    assert "0.0.0.0" in str(refused.value)
    assert "AIMA_API__PLAIN=true" in refused.value.failure.hint
    assert create_app(settings(bind="0.0.0.0", keys=[KEY], plain=True))
    assert create_app(settings(bind="0.0.0.0", keys=[KEY], tls=tls))


def test_half_a_pair_or_another_key_is_a_settings_error(made: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSettings, match="cannot be used for TLS"):
        ReloadingCertificate(made.certificate, made.authority)
    monkeypatch.setenv("AIMA_API__TLS__CERTIFICATE", str(made.certificate))

    with pytest.raises(BadSettings, match="TLS needs both"):
        load_settings()


@pytest.mark.parametrize("section", ["api", "gateway"])
def test_doctor_reports_a_listener_in_clear_text(made: Certificate, section: str) -> None:
    tls = {"certificate": made.certificate, "key": made.key}

    assert found({"plain": True}, section) == CheckStatus.WARNING
    assert found({}, section) == CheckStatus.FAILED
    assert found({"tls": tls}, section) == CheckStatus.OK
    assert found({"tls": {**tls, "key": made.authority}}, section) == CheckStatus.FAILED
    assert found({"bind": "127.0.0.1"}, section) is None


def test_doctor_reports_a_certificate_that_expires(made: Certificate) -> None:
    tls = {"certificate": made.certificate, "key": made.key}

    verdicts = []
    for days in (60, 3, -1):
        made.renew(days=days)
        verdicts.append(found({"tls": tls}))

    assert verdicts == [CheckStatus.OK, CheckStatus.WARNING, CheckStatus.FAILED]


@pytest.mark.redis
def test_applications_reach_a_gateway_over_tls_and_no_other_authority_is_accepted(
    redis_url: str, redis: RedisClient, made: Certificate, tmp_path: Path
) -> None:
    tls = {"certificate": made.certificate, "key": made.key}
    messages = [{"role": "user", "content": "How are you?"}]
    with engine_thread() as engines, gateway(redis_url, tls=tls) as running:
        Fleet(redis).serves(engines.engine())
        running.knows("dial")
        for authority in (made.authority, certificate_in(tmp_path / "of-the-attacker").authority):
            trusting = httpx2.Client(verify=ssl.create_default_context(cafile=authority))
            application = openai.OpenAI(
                base_url=f"{running.url}/v1", api_key="unused", max_retries=0, http_client=trusting
            )
            with application, ExitStack() as refused:
                if authority != made.authority:
                    refused.enter_context(pytest.raises(openai.APIConnectionError))
                assert len(list(application.chat.completions.create(model="dial", messages=messages, stream=True)))
        with closing(socket.create_connection(("127.0.0.1", urlsplit(running.url).port))) as plain:
            plain.sendall(b"GET /v1/models HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert plain.recv(1000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.redis
@pytest.mark.slow
def test_aima_up_serves_tls(made: Certificate, tmp_path: Path, installation: str) -> None:
    files = {"AIMA_API__TLS__CERTIFICATE": str(made.certificate), "AIMA_API__TLS__KEY": str(made.key)}
    aima = Aima(tmp_path, installation=installation, runtime="process", **files, AIMA_CA=str(made.authority))
    aima.environment["AIMA_URL"] = aima.url.replace("http:", "https:")
    try:
        aima.up()

        assert eventually(lambda: "AIMA is up." in aima.log(), within=SOON), aima.log()
        assert aima.environment["AIMA_URL"] in aima.log()
    finally:
        aima.end()


# The network -------------------------------------------------------------------------------------------------------


def connected(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(node.url.rpartition(":")[2])), timeout=SOON.total_seconds())


def served(node: Node, made: Certificate) -> bytes:
    """The certificate of a new handshake."""
    with verifying(str(made.authority)).wrap_socket(connected(node), server_hostname="127.0.0.1") as line:
        return line.getpeercert(binary_form=True) or b""


def is_cut(line: socket.socket) -> bool:
    """Whether the node ends the connection before the line's own timeout."""
    try:
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def settings(**api: object) -> Settings:
    return Settings.model_validate({"signing_key": SIGNING_KEY, "api": api})


def found(listener: dict[str, object], section: str = "api") -> CheckStatus | None:
    sections: dict[str, dict[str, object]] = {"api": {"keys": [KEY]}}
    sections[section] = {**sections.get(section, {}), "bind": "0.0.0.0", **listener}
    given = Settings.model_validate({"signing_key": SIGNING_KEY, **sections})
    return next((each.verdict for each in findings(given) if each.about == "TLS"), None)
