"""How a gateway reaches an instance, and how its key is certified for that."""

from __future__ import annotations

import pytest
from lab.dataplane import GATEWAY, INSTANCE, STRANGER_LOOPBACK
from lab.dataplane import signer as certified

from aima_api.gateway.reach import Direct, Reach, ThroughDataplane
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import NotCertified
from aima_core.store.operations import now
from aima_core.trust.gateways import TokenSigner

OWN = "0123456789abcdef"
EXPOSED, LOCAL, PLANE = "http://10.0.0.7:20001", "http://127.0.0.1:20001", "http://10.0.0.7:7091"
THROUGH = f"{PLANE}/i/{INSTANCE}"


def instance(endpoint, **reached_by):
    known = {"id": INSTANCE, "desired": Desired.RUNNING, "fence": 1, "state": InstanceState.READY, "since": now()}
    return Instance(**known, endpoint=endpoint, **reached_by)


@pytest.mark.parametrize(
    ("reached", "url"),
    [
        (instance(LOCAL, loopback=OWN), LOCAL),
        (instance(LOCAL, loopback=OWN, dataplane=PLANE), LOCAL),
        (instance(LOCAL, loopback=STRANGER_LOOPBACK, dataplane=PLANE), THROUGH),
        (instance(EXPOSED, loopback=STRANGER_LOOPBACK, dataplane=PLANE), THROUGH),
        (instance(EXPOSED, loopback=STRANGER_LOOPBACK), EXPOSED),
        (instance(EXPOSED), EXPOSED),
    ],
    ids=["own machine", "own with a plane", "other machine", "exposed with a plane", "exposed", "an earlier worker's"],
)
def test_an_instance_is_reached_directly_on_the_own_machine_and_by_the_data_plane_elsewhere(reached, url):
    target = Reach(certified(), loopback=OWN).target_of(reached)

    assert target is not None and target.url == url
    assert isinstance(target, ThroughDataplane if url == THROUGH else Direct)
    assert [name for name, _ in target.headers()] == ([b"authorization"] if url == THROUGH else [])


def test_the_loopback_of_another_machine_is_never_taken_for_the_own_one():
    without_plane = instance(LOCAL, loopback=STRANGER_LOOPBACK)

    assert Reach(certified(), loopback=OWN).target_of(without_plane) is None
    assert Reach(None, loopback=OWN).target_of(instance(LOCAL, loopback=STRANGER_LOOPBACK, dataplane=PLANE)) is None


def test_a_gateway_that_no_api_node_has_certified_says_what_to_set():
    target = Reach(TokenSigner(GATEWAY, now=now), loopback=OWN).target_of(
        instance(LOCAL, loopback=STRANGER_LOOPBACK, dataplane=PLANE)
    )

    with pytest.raises(NotCertified) as refused:
        target.headers()

    assert "gateway.api" in refused.value.failure.hint


@pytest.mark.parametrize("loopback", [OWN, STRANGER_LOOPBACK, None])
@pytest.mark.parametrize("forged", ["http://[::1", "http://a:99999", "http://a:b", "file:///etc", "http://:80", ""])
def test_no_way_leads_to_a_forged_endpoint_that_is_no_url(loopback, forged):
    assert Reach(certified(), loopback=OWN).target_of(instance(forged, loopback=loopback)) is None
