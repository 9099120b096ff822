"""Ed25519 signatures: what verifies, what does not, and which seeds are refused."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from aima_api.app import create_app
from aima_core.errors import BadSettings, BadSignature
from aima_core.settings import Settings
from aima_core.trust.keys import KeyRing, PublicKey, Purpose, SigningKey, key_ring
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


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 50])
def test_each_text_of_a_batch_verifies_with_its_own_signature_only(number):
    ring, texts = KeyRing([KEY.public]), [f"text {each}" for each in range(number)]

    signatures = KEY.sign_batch(texts, Purpose.ORDER)

    verified = [[is_verified(ring, text, Purpose.ORDER, each) for each in signatures] for text in texts]
    assert verified == [[text == signature for signature in range(number)] for text in range(number)]
    assert not any(is_verified(ring, "another", Purpose.ORDER, each) for each in signatures)
    assert not any(is_verified(ring, texts[0], Purpose.SERVICE, each) for each in signatures)


def test_a_signature_of_a_batch_with_another_position_or_proof_is_refused():
    ring = KeyRing([KEY.public])
    key_id, signature, _, proof = KEY.sign_batch(["a", "b", "c"], Purpose.ORDER)[0].split(".")

    forged = [("1", proof), ("4", proof), ("-1", proof), ("x", proof), ("0", proof[:43]), ("0", ""), ("0", "!")]
    forged += [("0", proof[::-1]), ("0", proof + proof)]

    assert is_verified(ring, "a", Purpose.ORDER, f"{key_id}.{signature}.0.{proof}")
    for position, other in forged:
        assert not is_verified(ring, "a", Purpose.ORDER, f"{key_id}.{signature}.{position}.{other}")
    assert not is_verified(ring, "a", Purpose.ORDER, f"{key_id}.{signature}.0")
    assert not is_verified(ring, "a", Purpose.ORDER, f"{key_id}.{signature}")


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


def settings(**given):
    return Settings.model_validate({"signing_key": None, **given})


def test_a_host_that_is_given_the_seed_trusts_its_public_half():
    ring = key_ring(settings(signing_key="3f9c1b7a5d2e8f60" * 2, retired_keys=[OTHER.public]))

    assert is_verified(ring, "text", Purpose.ORDER, KEY.sign("text", Purpose.ORDER))
    assert is_verified(ring, "text", Purpose.SERVICE, OTHER.sign("text", Purpose.SERVICE))


def test_a_host_without_a_seed_trusts_the_public_keys_that_it_is_given():
    ring = key_ring(settings(trusted_keys=[KEY.public]))

    assert ring.trusts_any
    assert is_verified(ring, "text", Purpose.ORDER, KEY.sign("text", Purpose.ORDER))
    assert not key_ring(settings(retired_keys=[KEY.public])).trusts_any


def test_a_key_that_is_trusted_and_retired_is_refused():
    with pytest.raises(BadSettings, match="is retired"):
        key_ring(settings(trusted_keys=[KEY.public], retired_keys=[KEY.public]))


@pytest.mark.parametrize("seed", ["", "the-key-that-the-api-nodes-have", "change-me" * 4])
def test_neither_side_takes_a_seed_that_can_be_guessed(seed):
    with pytest.raises(BadSettings, match="signing key"):
        key_ring(settings(signing_key=seed))
    with pytest.raises(BadSettings, match="signing key"):
        create_app(settings(signing_key=seed))
