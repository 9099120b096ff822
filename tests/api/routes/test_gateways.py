"""The route that certifies gateways."""

from __future__ import annotations

from lab.commands import PUBLIC_KEY
from lab.dataplane import GATEWAY, HOST, INSTANCE

from aima_core.domain.ids import SignedText
from aima_core.store.operations import now
from aima_core.trust.gateways import TokenSigner, TokenVerifier
from aima_core.trust.keys import KeyRing


def test_a_certified_gateway_is_admitted_by_the_data_planes_of_the_installation(node):
    answer = node.post("/v1/gateways", {"public_key": GATEWAY.public})

    assert answer.status_code == 201, answer.text
    assert answer.json()["lifetime"] == 900
    tokens = TokenSigner(GATEWAY, now=now)
    tokens.certify(SignedText.model_validate(answer.json()["certificate"]))
    keys = KeyRing([PUBLIC_KEY])
    TokenVerifier(keys, HOST, now=now).check(tokens.token(INSTANCE), INSTANCE)


def test_what_is_no_public_key_is_not_certified(node):
    for text in ("", "ed25519:", "ed25519:" + "A" * 44, "rsa:AAAA", GATEWAY.public + "\n"):
        assert node.post("/v1/gateways", {"public_key": text}).status_code == 422
