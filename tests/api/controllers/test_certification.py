"""API nodes certify the keys that hosts announce, and renew the certificates in time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.site import API_NODE, site

from aima_api.controllers import certification
from aima_api.controllers.certification import CHECK_INTERVAL, HostCertifier
from aima_core.domain.hosts import Host
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_core.trust.keys import KeyRing, Purpose
from aima_core.trust.peers import PeerCertificate
from aima_core.trust.tokens import LONGEST_CERTIFICATE


class Clock:
    def __init__(self) -> None:
        self.at = now()

    def __call__(self):
        return self.at


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(certification, "now", clock)
    return clock


@pytest.fixture
def hosts(fake_redis, tmp_path) -> HostStore:
    with site(fake_redis, tmp_path, "alpha", "beta", serving=False):
        yield HostStore(fake_redis)


def certificate(hosts: HostStore, name: str) -> PeerCertificate:
    signed = hosts.certificates()[name]
    KeyRing([API_NODE.public]).verify(signed.text, Purpose.PEER, signed.signature)
    return PeerCertificate.model_validate_json(signed.text)


def test_each_live_host_has_a_certificate_of_its_own_key(hosts):
    known = {host.name: host.key for host in hosts.all()}

    assert {name: certificate(hosts, name).public_key for name in known} == known
    assert len(set(known.values())) == 2


def test_a_certificate_is_renewed_after_a_third_of_its_lifetime(hosts, clock):
    certifier = HostCertifier(hosts, API_NODE)
    before = certificate(hosts, "alpha")

    clock.at = before.not_before + LONGEST_CERTIFICATE / 3 - timedelta(minutes=1)
    certifier.certify(hosts.all())
    assert certificate(hosts, "alpha") == before

    clock.at += timedelta(minutes=2)
    certifier.certify(hosts.all())
    assert certificate(hosts, "alpha").not_after == clock.at + LONGEST_CERTIFICATE


def test_a_host_with_another_key_is_certified_at_once(hosts, clock):
    certifier = HostCertifier(hosts, API_NODE)
    certifier.certify(hosts.all())
    changed = [host.model_copy(update={"key": API_NODE.public}) for host in hosts.all() if host.name == "beta"]

    certifier.certify(changed)

    assert certificate(hosts, "beta").public_key == API_NODE.public


def test_a_lost_certificate_is_replaced_at_the_next_check(hosts, clock, fake_redis):
    certifier = HostCertifier(hosts, API_NODE)
    certifier.certify(hosts.all())
    fake_redis.delete("aima:hosts:certificates")

    clock.at += CHECK_INTERVAL + timedelta(seconds=1)
    certifier.certify(hosts.all())

    assert set(hosts.certificates()) == {"alpha", "beta"}


@pytest.mark.parametrize("key", [None, "no key", "ed25519:short"])
def test_a_host_without_a_usable_key_gets_none_and_disturbs_no_other(hosts, clock, fake_redis, key):
    fake_redis.delete("aima:hosts:certificates")
    odd = [host.model_copy(update={"key": key}) if host.name == "alpha" else host for host in hosts.all()]

    HostCertifier(hosts, API_NODE).certify(odd)

    assert set(hosts.certificates()) == {"beta"}


def test_a_host_that_is_away_is_not_certified(hosts, clock, fake_redis):
    fake_redis.delete("aima:hosts:certificates")
    away: list[Host] = [host.model_copy(update={"live": False}) for host in hosts.all()]

    HostCertifier(hosts, API_NODE).certify(away)

    assert hosts.certificates() == {}


def test_a_forgotten_host_loses_its_certificate(hosts, fake_redis):
    fake_redis.zadd("aima:hosts:seen", {"alpha": 1.0})

    hosts.forget("alpha")

    assert set(hosts.certificates()) == {"beta"}
