"""The route by which a gateway has its key certified."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, StringConstraints

from aima_api.dependencies import Access, Api
from aima_api.http.schemas import RequestBody
from aima_core.domain.ids import SignedText
from aima_core.store.operations import now
from aima_core.trust.keys import PublicKey, Purpose
from aima_core.trust.tokens import LONGEST_CERTIFICATE, Certificate

router = APIRouter(prefix="/v1", tags=["access"])

TextOfKey = Annotated[str, StringConstraints(pattern=r"^ed25519:[A-Za-z0-9_-]{43}$")]


class CertifyGateway(RequestBody):
    public_key: TextOfKey
    """The gateway's own, which signs nothing but tokens for instances."""


class CertifiedGateway(BaseModel):
    certificate: SignedText
    """For the gateway, verbatim."""
    expires: AwareDatetime
    lifetime: float
    """Seconds; the gateway renews it after a third of them."""


@router.post("/gateways", status_code=201)
def certify(api: Api, access: Access, body: CertifyGateway) -> CertifiedGateway:
    """Certify the public key of a gateway for `gateway.keys_for`: with it, it reaches the engines of all hosts."""
    key = PublicKey(body.public_key)
    access.target = f"gateway {key.key_id}"
    at, lifetime = now(), min(max(api.certified_for, timedelta(seconds=10)), LONGEST_CERTIFICATE)
    certificate = Certificate(public_key=key, not_before=at, not_after=at + lifetime)
    signed = certificate.sign(api.signing_key, Purpose.GATEWAY)
    return CertifiedGateway(certificate=signed, expires=certificate.not_after, lifetime=lifetime.total_seconds())
