"""The data plane against a stranger, against a gateway that goes beyond its certificate, and against odd requests.

Each attack is sent to a real process in front of an engine that records what reaches it.
"""

from __future__ import annotations

import json
import select
import socket
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from lab.dataplane import API_NODE, GATEWAY, HOST, INSTANCE, DataplaneUnderTest, dataplane, signer
from lab.parts import eventually
from pydantic import SecretStr

from aima_core.domain.ids import InstanceId, SignedText
from aima_core.errors import BadSignature, TokenRefused
from aima_core.store.operations import now
from aima_core.trust.gateways import TokenSigner, TokenVerifier
from aima_core.trust.keys import KeyRing, Purpose, SigningKey

STRANGER = SigningKey(SecretStr("7b1d93e05c4fa826" * 2))
ELSEWHERE = InstanceId("svc-tiny-dial@spark-02")
NEIGHBOUR = InstanceId("svc-tiny-other@spark-01")
LONG_AGO = now() - timedelta(days=2)


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Iterator[DataplaneUnderTest]:
    with dataplane(tmp_path_factory.mktemp("dataplane")) as running:
        running.addresses.put(NEIGHBOUR, "127.0.0.1", running.engine.port, fence=1)
        yield running


@pytest.fixture(autouse=True)
def no_idle_connections(plane: DataplaneUnderTest) -> Iterator[None]:
    yield
    plane.engine.hang_up()


def reached(plane: DataplaneUnderTest) -> int:
    return len(plane.engine.heads)


def parts_of(token: str) -> dict[str, dict[str, str]]:
    return json.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))


def token_of(parts: object) -> str:
    return urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def self_signed() -> str:
    """A stranger's own key in the place of the gateway's, under the gateway's certificate."""
    parts = parts_of(signer().token(INSTANCE))
    text = parts["access"]["text"]
    return token_of({**parts, "access": {"text": text, "signature": STRANGER.sign(text, Purpose.ACCESS)}})


def for_longer() -> str:
    parts = parts_of(signer().token(INSTANCE))
    text = json.dumps({**json.loads(parts["access"]["text"]), "not_after": (now() + timedelta(hours=1)).isoformat()})
    return token_of({**parts, "access": {"text": text, "signature": GATEWAY.sign(text, Purpose.ACCESS)}})


def with_an_order_as_its_certificate() -> str:
    parts = parts_of(signer().token(INSTANCE))
    text = parts["certificate"]["text"]
    return token_of({**parts, "certificate": {"text": text, "signature": API_NODE.sign(text, Purpose.ORDER)}})


FORGED = {
    "none": lambda: "",
    "junk": lambda: "!!!",
    "empty JSON": lambda: token_of({}),
    "deep JSON": lambda: urlsafe_b64encode(b"[" * 3000).decode(),
    "10 KB": lambda: "a" * 10_000,
    "certified by a stranger": lambda: signer(STRANGER).token(INSTANCE),
    "signed by another key than the certified one": self_signed,
    "with an order's signature as its certificate": with_an_order_as_its_certificate,
    "for another host": lambda: signer().token(ELSEWHERE),
    "for another instance": lambda: signer().token(NEIGHBOUR),
    "valid for an hour": for_longer,
    "certified for too long": lambda: signer(not_before=LONG_AGO).token(INSTANCE),
    "certified from tomorrow on": lambda: signer(
        not_before=now() + timedelta(hours=2), not_after=now() + timedelta(hours=3)
    ).token(INSTANCE),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_reaches_no_engine(plane, forge):
    before = reached(plane)

    status, headers, _ = plane.request(f"/i/{INSTANCE}/echo", headers={"Authorization": f"Bearer {forge()}"})

    assert (status, headers["aima-error"]) == (401, "token_refused")
    assert reached(plane) == before


def test_a_token_is_refused_after_its_time_by_the_clock_of_the_host():
    tokens, at = signer(), [now()]
    verifier = TokenVerifier(KeyRing([API_NODE.public]), HOST, now=lambda: at[0])
    token = tokens.token(INSTANCE)
    verifier.check(token, INSTANCE)

    at[0] += timedelta(minutes=7)

    with pytest.raises(TokenRefused, match="expired"):
        verifier.check(token, INSTANCE)
    with pytest.raises(TokenRefused, match="expired"):
        TokenVerifier(KeyRing([API_NODE.public]), HOST, now=lambda: at[0]).check(token, INSTANCE)


def test_a_certificate_by_a_retired_key_is_refused():
    token = signer().token(INSTANCE)

    verifier = TokenVerifier(KeyRing([STRANGER.public], retired=[API_NODE.public]), HOST, now=now)

    with pytest.raises(TokenRefused, match="signature"):
        verifier.check(token, INSTANCE)


def test_a_token_may_be_used_again_until_it_expires(plane):
    captured = plane.headers()

    assert [plane.request(f"/i/{INSTANCE}/echo", headers=captured)[0] for _ in range(2)] == [200, 200]


def test_the_key_of_a_gateway_signs_no_order_no_spec_and_no_api_key():
    keys = KeyRing([API_NODE.public])
    certificate = SignedText.model_validate(parts_of(signer().token(INSTANCE))["certificate"])

    for purpose in (Purpose.ORDER, Purpose.SERVICE, Purpose.API_KEY):
        for text, signature in (("{}", GATEWAY.sign("{}", purpose)), (certificate.text, certificate.signature)):
            with pytest.raises(BadSignature):
                keys.verify(text, purpose, signature)


def test_one_signature_serves_all_requests_to_an_instance_of_half_a_minute():
    at = [now()]
    tokens = TokenSigner(GATEWAY, now=lambda: at[0])
    tokens.certify(SignedText.model_validate(parts_of(signer().token(INSTANCE))["certificate"]))
    first = tokens.token(INSTANCE)

    at[0] += timedelta(seconds=29)
    second = tokens.token(INSTANCE)
    at[0] += timedelta(seconds=2)

    assert first == second != tokens.token(INSTANCE)


PATHS = [
    "/",
    "/healthz",
    "/metrics",
    f"/i/{INSTANCE}",
    "/i//echo",
    f"/I/{INSTANCE}/echo",
    f"//i/{INSTANCE}/echo",
    f"/i/{INSTANCE}/../{NEIGHBOUR}/echo",
    f"/i/{INSTANCE}/..%2f{NEIGHBOUR}/echo",
    f"/i/{INSTANCE}/%2e%2e/echo",
    f"/i/{INSTANCE}/.%2E/echo",
    f"/i/{INSTANCE}/a/./echo",
    f"/i/{INSTANCE}/a%5cecho",
    f"/i/{INSTANCE}/a\\echo",
    f"/i/{INSTANCE}/%00",
    f"/i/{INSTANCE}/%0d%0aX:%20y",
    f"/i/{INSTANCE}/echo#part",
    f"http://127.0.0.1/i/{INSTANCE}/echo",
]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_the_paths_of_instances_is_forwarded_even_with_a_token(plane, path):
    before = reached(plane)

    answer = plane.send(raw("GET", path, plane.headers()))

    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert reached(plane) == before


def test_a_stranger_does_not_learn_which_instances_there_are(plane):
    gone = InstanceId("svc-tiny-gone@spark-01")

    answers = {plane.request(f"/i/{instance}/echo", headers={})[::2] for instance in (INSTANCE, gone, ELSEWHERE)}

    assert len(answers) == 1
    assert str(HOST).encode() not in next(iter(answers))[1]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "OPTIONS", "PROPFIND"])
def test_other_methods_are_not_forwarded(plane, method):
    before = reached(plane)

    answer = plane.send(raw(method, f"/i/{INSTANCE}/echo", plane.headers()))

    assert not answer.startswith(b"HTTP/1.1 2")
    assert reached(plane) == before


def test_an_upgrade_and_other_headers_of_the_hop_do_not_reach_the_engine(plane):
    hop = {
        "Connection": "Upgrade, X-Secret, keep-alive",
        "Upgrade": "websocket",
        "Proxy-Authorization": "Basic eDp5",
        "X-Secret": "1",
        "TE": "trailers",
        "Keep-Alive": "timeout=1",
    }

    answer = plane.send(raw("GET", f"/i/{INSTANCE}/echo", {**plane.headers(), **hop}))

    assert not answer.startswith(b"HTTP/1.1 101")
    seen = plane.engine.heads[-1].lower()
    assert not any(name in seen for name in (b"upgrade", b"x-secret", b"proxy-auth", b"\nte:", b"keep-alive: timeout"))


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
FRAMINGS = {
    "both a length and chunks": [("Content-Length", "4"), ("Transfer-Encoding", "chunked")],
    "two lengths": [("Content-Length", "0"), ("Content-Length", "40")],
    "a length with a sign": [("Content-Length", "+0")],
    "a length in hexadecimal": [("Content-Length", "0x0")],
    "an unknown transfer encoding": [("Transfer-Encoding", "xchunked")],
    "a transfer encoding with a tab": [("Transfer-Encoding", "\tchunked, identity")],
    "a name with a space": [("Content-Length ", "0")],
    "a folded header": [("X-A", "1\r\n Content-Length: 40")],
    "a bare line feed": [("X-A", "1\nTransfer-Encoding: chunked")],
    "a length named by Connection": [("Connection", "content-length"), ("Content-Length", "0")],
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS.keys())
def test_no_framing_smuggles_a_second_request_past_the_token(plane, framing):
    lines = [f"{name}: {value}" for name, value in framing]
    head = "\r\n".join([f"POST /i/{INSTANCE}/echo HTTP/1.1", "Host: x", *authorization(plane), *lines, "", ""])

    plane.send(head.encode() + b"0\r\n\r\n" + SMUGGLED, silence=0.3)

    assert not any(b"smuggled" in each.split(b"\r\n")[0] for each in plane.engine.heads)


@pytest.mark.parametrize("count", [0, 2], ids=["no token", "two tokens"])
def test_a_request_has_exactly_one_token(plane, count):
    head = "\r\n".join([f"GET /i/{INSTANCE}/echo HTTP/1.1", "Host: x", *(authorization(plane) * count), "", ""])

    assert plane.send(head.encode()).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /i/" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000,
    ],
    ids=["a long line", "many headers", "a long header"],
)
def test_the_size_of_a_head_is_limited(plane, head):
    assert plane.send(head + b"\r\n\r\n").startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))


def test_the_process_of_the_data_plane_holds_no_secret_of_the_worker(plane):
    from aima_worker.dataplane.process import _environment

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AIMA_REDIS__URL", "AIMA_SIGNING_KEY", "DOCKER_HOST", "CREDENTIALS_DIRECTORY"):
            patch.setenv(name, "secret")

        given = _environment()

    assert "secret" not in given.values()
    assert eventually(lambda: {each.name for each in plane.directory.iterdir()} == {"config.json", "engines.json"})
    assert all(each.stat().st_mode & 0o077 == 0 for each in plane.directory.iterdir())


def test_connections_are_limited_and_those_that_are_open_go_on(plane):
    plane.end()
    plane.start(connections=10)
    with ExitStack() as stack:
        first, *others = [
            stack.enter_context(socket.create_connection(("127.0.0.1", plane.port), 20)) for _ in range(30)
        ]

        assert eventually(lambda: len(closed(others)) >= 20)
        first.sendall(raw("GET", f"/i/{INSTANCE}/echo", plane.headers()))

        assert first.recv(100).startswith(b"HTTP/1.1 200")
        assert len(closed(others)) in (20, 21)  # the connection that tests whether it listens may still be open


def raw(method: str, target: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def authorization(plane: DataplaneUnderTest) -> list[str]:
    return [f"Authorization: {plane.headers()['Authorization']}"]


def closed(connections: list[socket.socket]) -> list[socket.socket]:
    """Those that the data plane, which has sent nothing, has closed."""
    return select.select(connections, [], [], 0)[0]
