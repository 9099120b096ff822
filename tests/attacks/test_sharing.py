"""A stranger on the network, and a writer in Redis, against hosts that share models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from threading import Event

import pytest
from lab.dataplane import signer as gateway_tokens
from lab.parts import eventually
from lab.site import API_NODE, SharingHost, site
from pydantic import SecretStr
from worker.models.conftest import manifest_of

from aima_api.controllers.certification import HostCertifier
from aima_core.domain.ids import HostName, InstanceId
from aima_core.domain.models import Manifest
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_core.trust.keys import KeyRing, Purpose, SigningKey
from aima_core.trust.peers import PEERS, PeerCertificate, PiecesOf
from aima_core.trust.tokens import LONGEST_CERTIFICATE, TOKEN_LIFETIME, BearerSigner, BearerVerifier
from aima_worker.models.peers import path_of
from aima_worker.models.pieces import PIECE_SIZE, pieces_of

pytestmark = pytest.mark.redis

HOST = SigningKey(SecretStr("the seed of a host's own key, 0123456789"))
STRANGER = SigningKey(SecretStr("the seed of a stranger's key, 987654321"))
FILES = {"a.bin": b"published" * 1000, "b.bin": b"b" * 100}
PARTIAL = {"c.bin": b"c" * (PIECE_SIZE + 1000), "d.bin": b"d" * 100}


class _Origin:
    url = "http://127.0.0.1:1"


PUBLISHED = manifest_of(_Origin(), FILES)  # type: ignore[arg-type]
FETCHING = manifest_of(_Origin(), PARTIAL, revision="f" * 40)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def host(shared_redis, tmp_path_factory) -> Iterator[SharingHost]:
    """With one model that is published, and one of which only the first piece is there."""
    redis = command_link(shared_redis.url)
    with site(redis, tmp_path_factory.mktemp("site"), "alpha") as (alpha,):
        with alpha.store.fetching(PUBLISHED, Event()) as partial:
            write(partial, FILES, {(0, 0), (1, 0)})
            alpha.store.publish(partial)
        with alpha.store.fetching(FETCHING, Event()) as partial:
            write(partial, PARTIAL, {(0, 0)})
        yield alpha
    redis.close()
    shared_redis.empty()  # for the next test of this process, which may be one of another file


def write(partial, files, pieces) -> None:
    for number, file in enumerate(partial.files):
        partial.create(file)
        for piece in pieces_of(partial.files)[number]:
            if (number, piece.number) in pieces:
                content = files[file.path][piece.start : piece.start + piece.length]
                with partial.opened(file, write=True) as descriptor:
                    partial.write(descriptor, content, piece.start)
                partial.journal.record(piece, piece.length, hashlib.sha256(content).hexdigest())


def tokens(key=HOST, *, api_node=API_NODE, purpose=Purpose.PEER, at=None, **changes) -> BearerSigner[PiecesOf]:
    at = at or now()
    valid = {"name": "beta", "public_key": key.public, "not_before": at, "not_after": at + timedelta(minutes=5)}
    made = BearerSigner(PEERS, key, now=lambda: at)
    made.certify(PeerCertificate.model_validate({**valid, **changes}).sign(api_node, purpose))
    return made


def token(manifest: Manifest = PUBLISHED, *, at: str = "alpha", **how) -> str:
    return tokens(**how).token(PiecesOf(HostName(at), manifest.digest))


def get(host: SharingHost, path: str, given: str | None, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", host.port, timeout=20)
    authorization = {"Authorization": f"Bearer {given}"} if given else {}
    try:
        connection.request("GET", path, headers={**authorization, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_certified_host_reads_a_published_model(host):
    assert get(host, path_of(PUBLISHED, 0), token()) == (206, FILES["a.bin"])


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda: None, id="none"),
        pytest.param(lambda: "forged", id="no token"),
        pytest.param(lambda: token(api_node=STRANGER), id="certified by a stranger"),
        pytest.param(lambda: token(purpose=Purpose.GATEWAY), id="certified as a gateway"),
        pytest.param(lambda: token(at="gamma"), id="of another host"),
        pytest.param(lambda: token(FETCHING), id="of another model"),
        pytest.param(lambda: token(not_after=now() + 2 * LONGEST_CERTIFICATE), id="certified for too long"),
        pytest.param(lambda: expired(), id="expired"),
        pytest.param(lambda: gateway_tokens(API_NODE).token(InstanceId("svc-tiny-dial@alpha")), id="of a gateway"),
    ],
)
def test_without_a_host_s_token_no_byte_of_a_model_is_sent(host, given):
    status, body = get(host, path_of(PUBLISHED, 0), given())

    assert status == 401
    assert json.loads(body)["code"] == "token_refused"


def expired() -> str:
    return tokens(at=now() - timedelta(hours=1)).token(PiecesOf(HostName("alpha"), PUBLISHED.digest))


@pytest.mark.parametrize(
    "path",
    [
        "/m/../../etc/passwd",
        f"/m/small/{PUBLISHED.name}/../model.json",
        f"/m/small/{PUBLISHED.name}/0/..",
        f"/m/small/%2e%2e/{PUBLISHED.name}/0",
        f"/m/.fetching/{PUBLISHED.name}/0",
        f"/m/small/{PUBLISHED.name}/a.bin",
        f"/m/small/{PUBLISHED.name}/99",
        f"/m/small/{PUBLISHED.name}/-1",
        f"/m/other/{PUBLISHED.name}/0",
        "/m/",
    ],
)
def test_a_path_leads_to_pieces_only(host, path):
    status, body = get(host, path, token())

    assert status == 404
    assert b"root:" not in body


def test_only_whole_journalled_pieces_of_a_running_fetch_are_sent(host):
    """The rest of its files has zeros, which would look like the model."""
    given = token(FETCHING)
    first = get(host, path_of(FETCHING, 0), given, Range=f"bytes=0-{PIECE_SIZE - 1}")
    second = get(host, path_of(FETCHING, 0), given, Range=f"bytes={PIECE_SIZE}-{PIECE_SIZE + 999}")
    across = get(host, path_of(FETCHING, 0), given, Range=f"bytes=1000-{PIECE_SIZE + 999}")
    other = get(host, path_of(FETCHING, 1), given)

    assert first == (206, PARTIAL["c.bin"][:PIECE_SIZE])
    assert [each[0] for each in (second, across, other)] == [404] * 3


def test_an_expired_token_is_refused_by_the_clock_of_the_host():
    given = token()
    late = BearerVerifier(
        PEERS,
        KeyRing([API_NODE.public]),
        HostName("alpha"),
        now=lambda: now() + 2 * TOKEN_LIFETIME + timedelta(minutes=5),
    )

    with pytest.raises(Exception, match="it has expired"):
        late.check(given)


def test_uploads_are_limited_and_others_are_told_so(shared_redis, tmp_path):
    redis = command_link(shared_redis.url)
    with site(redis, tmp_path, "delta", serving=False) as (delta,):
        delta.serve(uploads=0)
        assert eventually(delta.serves, within=timedelta(seconds=60))
        status, body = get(delta, path_of(PUBLISHED, 0), token(at="delta"))
    redis.close()
    shared_redis.empty()

    assert (status, json.loads(body)["code"]) == (503, "too_many_uploads")


def test_a_certificate_that_a_writer_in_redis_has_forged_is_replaced_and_accepted_nowhere(redis, tmp_path):
    with site(redis, tmp_path, "alpha", serving=False) as (alpha,):
        at = now()
        forged = PeerCertificate(
            name=alpha.name, public_key=STRANGER.public, not_before=at, not_after=at + timedelta(hours=1)
        ).sign(STRANGER, Purpose.PEER)
        redis.hset(keys.HOST_CERTIFICATES, alpha.name, forged.model_dump_json())

        assert not alpha.neighbours.is_certified()
        HostCertifier(HostStore(redis), API_NODE).certify(HostStore(redis).all())

        assert alpha.neighbours.is_certified()


def test_the_key_of_a_host_does_not_leave_it_and_signs_no_order(redis, tmp_path):
    with site(redis, tmp_path, "alpha", serving=False) as (alpha,):
        seed = (alpha.settings.state_dir / "host.key").read_text().strip()
        dumped = "".join(str(redis.hgetall(key)) for key in redis.keys("*") if redis.type(key) == "hash")

        assert seed not in dumped
        assert ((alpha.settings.state_dir / "host.key").stat().st_mode & 0o777) == 0o600
        with pytest.raises(Exception, match="signature"):
            KeyRing([API_NODE.public]).verify(
                "text", Purpose.ORDER, SigningKey(SecretStr(seed)).sign("text", Purpose.ORDER)
            )
