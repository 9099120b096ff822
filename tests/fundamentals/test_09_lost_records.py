"""Ground truth: containers carry what Redis knows in their labels, so records that Redis lost are rebuilt from them."""

from __future__ import annotations

from datetime import timedelta

from lab.commands import a_start_of as start_of
from lab.commands import a_stop_of as stop_of

from aima_core.domain.services import InstanceState

SERVICE = "svc-tiny-dial"


def test_records_that_redis_lost_are_rebuilt_from_the_labels_of_the_containers(host, lose_redis_data):
    before, container = host.execute(start_of(SERVICE)).instance, host.container(SERVICE)

    lose_redis_data()
    host.reconcile()

    assert host.instance(SERVICE).model_copy(update={"since": before.since}) == before
    assert host.leased_ports() == [before.port]
    assert host.container(SERVICE) == container


def test_a_stopped_service_comes_back_with_the_spec_that_was_signed(api, host, lose_redis_data):
    host.execute(api.start(SERVICE, model="Dial", replicas=1))
    host.execute(stop_of(SERVICE))
    before = api.get(f"/v1/services/{SERVICE}")

    lose_redis_data()
    host.notice_lost_data()

    assert api.get(f"/v1/services/{SERVICE}") == {**before, "instances": []}
    assert [each["id"] for each in api.get("/v1/services")["items"]] == [SERVICE]


def test_a_stop_after_the_loss_counts_as_later_than_the_start_before_it(host, lose_redis_data):
    before = host.execute(start_of(SERVICE)).instance
    lose_redis_data()
    host.reconcile()

    outcome = host.execute(stop_of(SERVICE))

    assert outcome.operation.fence > before.fence
    assert host.containers() == []


def test_a_container_removed_by_hand_fails_its_instance_and_releases_its_port(host):
    host.execute(start_of(SERVICE))

    host.runtime.remove(host.container_name(SERVICE), grace=timedelta())
    host.reconcile()

    assert host.state(SERVICE) is InstanceState.FAILED
    assert host.leased_ports() == []
