"""A writer in Redis forges specs of services and silent hosts: nothing is started from what no request has signed.

The attacker writes whatever it wants to Redis, and has no signing key. At most it can bring back a spec that was once
signed, or remove one.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker, api_node, as_listed, controllers_of, waiting_on
from lab.commands import SIGNING_KEY, a_spec_of, a_start_of, granted_to
from lab.member import a_member
from pydantic import SecretStr

from aima_api.doctor.checks import check_hosts
from aima_core.domain.ids import HostName, ServiceId, SignedText
from aima_core.domain.operations import StartService
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.redis import keys
from aima_core.settings import Settings
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import SigningKey
from aima_core.trust.orders import Mandate

pytestmark = pytest.mark.redis
OTHER = "svc-tiny-dial-b"
STOLEN = SecretStr("a seed that no API node of this installation has")
NEW = SecretStr("the seed of the key that signs after a rotation")
EVIL: dict[str, Any] = {"model_path": "/etc", "arguments": {"load-seconds": 99}, "revision": 7}
ANY_HOST = "cpu.amd64"


@pytest.fixture
def node(redis_url):
    with api_node(redis_url) as node:
        yield node


@pytest.fixture
def alpha(redis):
    return ScriptedWorker(redis, "alpha")


@pytest.fixture
def beta(redis):
    return ScriptedWorker(redis, "beta")


def unsigned(redis, valid: str) -> str:
    """The spec alone, as records were once stored."""
    return a_spec_of(**EVIL).record.text


def with_the_signature_of_the_valid_one(redis, valid: str) -> str:
    return json.dumps({**json.loads(valid), "text": a_spec_of(**EVIL).record.text})


def signed_by_another_key(redis, valid: str) -> str:
    return a_spec_of(key=STOLEN, **EVIL).record.model_dump_json()


def signed_for_another_service(redis, valid: str) -> str:
    """A valid record in the place of another."""
    return str(redis.get(keys.service(ServiceId(OTHER))))


def not_json(redis, valid: str) -> str:
    return '{"id": "' + SERVICE + '"}], "items": ["'


def not_text(redis, valid: str) -> bytes:
    return b"\xff" + valid.encode()


FORGERIES = [
    unsigned,
    with_the_signature_of_the_valid_one,
    signed_by_another_key,
    signed_for_another_service,
    not_json,
    not_text,
]
every_forgery = pytest.mark.parametrize("forgery", FORGERIES, ids=lambda each: each.__name__)


def forge(redis, forgery) -> None:
    record = keys.service(ServiceId(SERVICE))
    redis.set(record, forgery(redis, redis.get(record)))


def write_both(node: Node) -> None:
    for id in (SERVICE, OTHER):
        answer = node.post("/v1/services", {"id": id, "model": "Dial"})
        assert answer.status_code == 201, answer.text


def submitted(node: Node) -> list[str]:
    return [each["kind"] for each in node.get("/v1/operations").json()["items"]]


# Requests ---------------------------------------------------------------------------------------------------------


@every_forgery
@pytest.mark.parametrize("action", ["start", "restart", "plan"])
def test_nothing_is_started_or_planned_from_a_forged_spec(node, redis, alpha, beta, forgery, action):
    write_both(node)

    forge(redis, forgery)
    answer = node.post(f"/v1/services/{SERVICE}:{action}")

    assert (answer.status_code, answer.json()["code"]) == (409, "unverified_service")
    assert f"aima service create {SERVICE}" in answer.json()["hint"]
    assert submitted(node) == []


@every_forgery
def test_the_options_of_a_start_are_not_merged_into_a_forged_spec(node, redis, alpha, forgery):
    write_both(node)

    forge(redis, forgery)
    answer = node.post(f"/v1/services/{SERVICE}:start", {"arguments": {"load-seconds": 1}})

    assert answer.json()["code"] == "unverified_service"
    assert submitted(node) == []


def test_a_forged_spec_refuses_no_other_start_of_its_batch(node, redis, alpha):
    write_both(node)

    forge(redis, signed_by_another_key)
    refused, accepted = node.server.config.app.state.dependencies.starts.start_each(
        [_request(SERVICE), _request(OTHER)]
    )

    assert refused.code == "unverified_service"
    assert [each.service for each in accepted] == [OTHER]


def test_a_forged_spec_is_written_again_by_a_request_and_removed_by_one(node, redis, alpha):
    write_both(node)
    forge(redis, signed_by_another_key)

    written = node.post("/v1/services", {"id": SERVICE, "model": "Dial"})
    started = node.start()
    forge(redis, signed_by_another_key)
    stopped = node.post(f"/v1/services/{SERVICE}:stop")
    redis.set(keys.service(ServiceId(OTHER)), "forged")
    removed = node.client.delete(f"/v1/services/{OTHER}")

    assert (written.status_code, len(started)) == (201, 1)
    assert (stopped.status_code, removed.status_code) == (202, 204)
    assert node.get(f"/v1/services/{OTHER}").status_code == 404


@every_forgery
def test_a_listing_shows_a_forged_spec_as_refused_and_every_other_one(node, redis, forgery):
    write_both(node)
    before = node.get(f"/v1/services/{OTHER}").json()

    forge(redis, forgery)
    refused, other = node.get("/v1/services").json()["items"]

    assert sorted(refused) == ["failure", "id", "instances"]
    assert (refused["id"], refused["failure"]["code"]) == (SERVICE, "unverified_service")
    assert other == as_listed(before)
    assert as_listed(node.get(f"/v1/services/{SERVICE}").json()) == refused


def test_the_doctor_names_services_whose_spec_is_forged(node, redis, redis_url):
    write_both(node)
    forge(redis, signed_by_another_key)

    findings = check_hosts(Settings.model_validate({"redis": {"url": redis_url}, "signing_key": SIGNING_KEY}))

    (finding,) = [each for each in findings if each.about == "services"]
    assert SERVICE in finding.message
    assert OTHER not in finding.message


def test_a_record_of_another_type_counts_as_none(node, redis, alpha):
    write_both(node)
    redis.delete(keys.service(ServiceId(SERVICE)))
    redis.hset(keys.service(ServiceId(SERVICE)), "text", "forged")

    listed = [each["id"] for each in node.get("/v1/services").json()["items"]]
    started = node.start(model="Dial")

    assert listed == [OTHER]
    assert len(started) == 1


# Failover ---------------------------------------------------------------------------------------------------------


def forge_a_silent_host(redis, *, name: str = "ghost") -> None:
    """A host that was live and has fallen silent, and an instance of the service that ran there."""
    ghost = ScriptedWorker(redis, name)
    redis.zadd(keys.HOSTS_SEEN, {ghost.name: redis.time()[0] - 1000})
    id = ServiceId(SERVICE).on(HostName(name))
    instance = Instance(id=id, desired=Desired.RUNNING, fence=1, state=InstanceState.READY, since=now())
    ServiceStore(redis).replace_desired(instance)


@every_forgery
def test_a_forged_silent_host_with_a_forged_spec_starts_nothing(node, redis, alpha, beta, forgery):
    write_both(node)

    forge(redis, forgery)
    forge_a_silent_host(redis)
    controllers_of(node).run_once()

    assert submitted(node) == []


def test_a_forged_silent_host_starts_at_most_the_verified_spec(node, redis, redis_url, alpha, beta):
    node.post("/v1/services", {"id": SERVICE, "model": "Dial", "arguments": {"load-seconds": 3}})

    forge_a_silent_host(redis)
    controllers_of(node).run_once()

    assert sorted(submitted(node)) == ["start", "stop"]
    (start,) = [*waiting_on(redis_url, ANY_HOST), *waiting_on(redis_url, "host.alpha")]
    command = alpha.claim_start(start).command
    assert isinstance(command, StartService)
    assert (command.engine.arguments["load-seconds"], command.model_path) == (3, None)


# Keys -------------------------------------------------------------------------------------------------------------


def test_a_spec_that_a_retired_key_has_signed_is_still_started(redis, redis_url, alpha):
    with api_node(redis_url) as before:
        write_both(before)

    retired = SigningKey(SIGNING_KEY).public
    with api_node(redis_url, trust={"signing_key": NEW, "retired_keys": [retired]}) as rotated:
        started = rotated.start()
    with api_node(redis_url, trust={"signing_key": NEW}) as forgotten:
        refused = forgotten.post(f"/v1/services/{SERVICE}:start").json()

    assert len(started) == 1
    assert refused["code"] == "unverified_service"


# After a loss of Redis' data ----------------------------------------------------------------------------------------


@pytest.fixture
def member(redis, tmp_path):
    with a_member(redis, tmp_path, "alpha") as member:
        member.beat()
        yield member


AFTER_A_LOSS = [unsigned, signed_by_another_key, not_json]


@pytest.mark.parametrize("forgery", AFTER_A_LOSS, ids=lambda each: each.__name__)
def test_a_spec_forged_before_the_hosts_restore_theirs_is_replaced(redis, shared_redis, member, forgery):
    signed = a_spec_of(arguments={"threads": 2})
    member.run_and_stop(signed)

    shared_redis.empty()
    redis.set(keys.service(ServiceId(SERVICE)), forgery(redis, ""))
    member.beat()

    assert member.stored(SERVICE).record == signed.record


def test_an_older_spec_brought_back_before_the_hosts_restore_theirs_is_replaced(redis, shared_redis, member):
    older, newer = a_spec_of(revision=1), a_spec_of(revision=2, replicas=2)
    member.run_and_stop(newer)

    shared_redis.empty()
    redis.set(keys.service(ServiceId(SERVICE)), older.record.model_dump_json())
    member.beat()

    assert member.stored(SERVICE) == newer


@pytest.mark.parametrize("forgery", AFTER_A_LOSS, ids=lambda each: each.__name__)
def test_an_adopted_container_restores_the_signed_spec_over_a_forged_one(redis, shared_redis, member, forgery):
    signed = a_spec_of(arguments={"threads": 2})
    member.run(signed)

    shared_redis.empty()
    redis.set(keys.service(ServiceId(SERVICE)), forgery(redis, ""))
    member.reconcile()

    assert member.desk.host.services.instance(ServiceId(SERVICE).on(HostName("alpha"))).state == "ready"
    assert member.stored(SERVICE).record == signed.record


@pytest.mark.parametrize(
    "spec", [a_spec_of(OTHER), a_spec_of(key=STOLEN)], ids=["of another service", "of another key"]
)
def test_a_host_restores_no_spec_that_does_not_verify_for_its_service(redis, shared_redis, member, spec):
    command = a_start_of().model_copy(update={"spec": SignedText(**dict(spec.record))})
    member.desk.run_command(command)

    shared_redis.empty()
    member.beat()
    member.reconcile()

    assert member.desk.host.services.instance(ServiceId(SERVICE).on(HostName("alpha"))).state == "ready"
    assert redis.keys("aima:service:*") == []


# Labels -----------------------------------------------------------------------------------------------------------


def another_command(labels: dict[str, str]) -> dict[str, str]:
    evil = a_start_of(environment={"EVIL": "1"}).model_dump_json()
    return {**labels, "aima.command": evil}


def another_key(labels: dict[str, str]) -> dict[str, str]:
    stolen = granted_to(a_start_of(environment={"EVIL": "1"}), key=STOLEN)
    return {**labels, **stolen.labels()}


def another_image(labels: dict[str, str]) -> dict[str, str]:
    return {**labels, "aima.image": "evil:1"}


def no_order(labels: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != "aima.order"}


@pytest.mark.parametrize("altered", [another_command, another_key, another_image, no_order], ids=lambda it: it.__name__)
def test_a_container_whose_labels_no_order_explains_is_neither_adopted_nor_restarted(shared_redis, member, altered):
    member.run(a_spec_of())
    (container,) = member.runtime.containers({})
    spec = member.runtime.spec_of(container.name)
    member.runtime.remove(container.name, grace=timedelta())
    member.runtime.run(spec.model_copy(update={"labels": altered(dict(spec.labels))}))
    member.runtime.end(container.name, exit_code=1)

    shared_redis.empty()
    member.reconcile()
    member.reconcile()

    assert member.unrecognized == (container.name,)
    assert member.runtime.find(container.name).status == "exited"
    assert member.desk.host.services.instance(ServiceId(SERVICE).on(HostName("alpha"))) is None


def _request(id: str) -> Any:
    from aima_api.http.schemas import ServiceOptions
    from aima_api.submission.starts import StartRequest

    return StartRequest(ServiceId(id), ServiceOptions(), Mandate("operator"))
