"""Certifies the keys that hosts announce, so that they may read pieces of models from one another.

A certificate outlasts an outage of all API nodes by most of its lifetime; hosts without one download from the origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from pydantic import ValidationError

from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName, SignedText
from aima_core.errors import BadSettings, BadSignature
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_core.trust.keys import KeyRing, PublicKey, Purpose, SigningKey
from aima_core.trust.peers import PeerCertificate
from aima_core.trust.tokens import LONGEST_CERTIFICATE

CHECK_INTERVAL = timedelta(seconds=30)

_log = structlog.get_logger()


class HostCertifier:
    def __init__(self, hosts: HostStore, signing_key: SigningKey) -> None:
        self._hosts = hosts
        self._signing_key = signing_key
        self._own = KeyRing([signing_key.public])
        self._known: dict[HostName, str] = {}
        """The keys of certified hosts, by name."""
        self._checked_at: datetime | None = None

    def certify(self, hosts: Iterable[Host]) -> None:
        """Live ones whose certificate is missing, of another key, or more than a third of its lifetime old.

        Raises BrokerUnavailable.
        """
        keys = {host.name: host.key for host in hosts if host.live and host.key}
        at = now()
        is_due = self._checked_at is None or at - self._checked_at > CHECK_INTERVAL
        if not is_due and all(self._known.get(name) == key for name, key in keys.items()):
            return
        certificates = self._hosts.certificates()
        for name, key in keys.items():
            if not self._is_valid(certificates.get(name), name, key, at):
                self._certify(name, key, at)
        self._known, self._checked_at = dict(keys), at

    def _certify(self, name: HostName, key: str, at: datetime) -> None:
        try:
            certificate = PeerCertificate(
                name=name, public_key=PublicKey(key), not_before=at, not_after=at + LONGEST_CERTIFICATE
            )
        except (BadSettings, ValidationError) as wrong:
            _log.warning("host announces no usable key", host=name, reason=str(wrong))
            return
        self._hosts.certify(certificate.name, certificate.sign(self._signing_key, Purpose.PEER))

    def _is_valid(self, certificate: SignedText | None, name: HostName, key: str, at: datetime) -> bool:
        if certificate is None:
            return False
        try:
            self._own.verify(certificate.text, Purpose.PEER, certificate.signature)
            known = PeerCertificate.model_validate_json(certificate.text)
        except (BadSignature, ValidationError):
            return False
        is_young = known.not_before <= at < known.not_before + LONGEST_CERTIFICATE / 3
        return (known.name, known.public_key) == (name, key) and is_young
