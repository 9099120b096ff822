"""Ed25519 signatures: what verifies, what does not, and which seeds are refused."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from aima_core.errors import BadSettings, BadSignature
from aima_core.trust.keys import KeyRing, PublicKey, Purpose, SigningKey
from aima_core.trust.records import SignedRecord

KEY = SigningKey(SecretStr("3f9c1b7a5d2e8f60" * 2))
OTHER = SigningKey(SecretStr("a04e6d9b1c7f2358" * 2))


def is_verified(ring, text, purpose, signature):
    try:
        ring.verify(text, purpose, signature)
    except BadSignature:
        return False
    return True


def test_a_signature_verifies_with_the_public_key_only_for_its_text_and_purpose():
    ring, signature = KeyRing([KEY.public]), KEY.sign("text", Purpose.ORDER)

    assert is_verified(ring, "text", Purpose.ORDER, signature)
    assert not is_verified(ring, "text ", Purpose.ORDER, signature)
    assert not is_verified(ring, "text", Purpose.SERVICE, signature)
    assert not is_verified(KeyRing([OTHER.public]), "text", Purpose.ORDER, signature)
    assert not is_verified(ring, "text", Purpose.ORDER, signature.replace(KEY.public.key_id, OTHER.public.key_id))


@pytest.mark.parametrize(
    "signature", ["", ".", "x", "é.é", f"{KEY.public.key_id}.", f"{KEY.public.key_id}.!!!", "a" * 9999]
)
def test_a_malformed_signature_is_refused(signature):
    assert not is_verified(KeyRing([KEY.public]), "text", Purpose.ORDER, signature)


def test_a_retired_key_verifies_records_and_no_order():
    ring = KeyRing([KEY.public], retired=[OTHER.public])

    assert is_verified(ring, "text", Purpose.SERVICE, OTHER.sign("text", Purpose.SERVICE))
    assert not is_verified(ring, "text", Purpose.ORDER, OTHER.sign("text", Purpose.ORDER))


def test_a_record_verifies_only_under_its_id():
    ring, record = KeyRing([KEY.public]), SignedRecord.of("{}", id="svc-a-1", purpose=Purpose.SERVICE, key=KEY)

    assert record.verified(ring, id="svc-a-1", purpose=Purpose.SERVICE) == "{}"
    with pytest.raises(BadSignature):
        record.verified(ring, id="svc-a-2", purpose=Purpose.SERVICE)


@pytest.mark.parametrize(
    "seed",
    ["", " " * 40, "short", "x" * 64, "change-me-change-me-change-me-change-me", "0123456789abcdef0123456789abcde"],
)
def test_a_seed_that_can_be_guessed_is_refused(seed):
    with pytest.raises(BadSettings) as refused:
        SigningKey(SecretStr(seed))
    assert "AIMA_SIGNING_KEY" in refused.value.failure.hint


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "AAAA", "ed25519:é", KEY.public + "AAAA"])
def test_a_malformed_public_key_is_refused(text):
    with pytest.raises(BadSettings) as refused:
        PublicKey(text)
    assert "AIMA_TRUSTED_KEYS" in refused.value.failure.hint
