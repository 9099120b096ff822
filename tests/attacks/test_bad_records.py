"""A writer in Redis puts unreadable and forged records there: each is skipped and named, and all else goes on."""

from __future__ import annotations

import json
import signal
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from api.conftest import node, worker  # noqa: F401 fixtures
from api.node import ScriptedWorker
from core.redis.conftest import a_redis, asked_of, hosts_of, redis_server_program  # noqa: F401 fixtures
from lab.commands import SIGNING_KEY, a_start_of, a_stop_of, enqueue_signed
from lab.forked import launch
from lab.parts import eventually
from worker.conftest import desk, model_root, runtime, settings, timings, worker_environment  # noqa: F401 fixtures

from aima_api.doctor.checks import check_hosts
from aima_api.submission.cancellation import Cancellations
from aima_core.domain.ids import HostName, OperationId
from aima_core.domain.operations import Event, Phase, State
from aima_core.errors import BrokerUnavailable, CorruptData
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.settings import Settings
from aima_core.store.claims import ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import KeyRing, SigningKey
from aima_worker.execution.executor import execute

pytestmark = pytest.mark.redis

ALPHA = HostName("alpha")
INSTANCE = keys.instance("svc-tiny-other@alpha")
EVIL = "0b5f4c1e-3c1c-4a52-9c55-3f8a3a0f9f21"
SOON = timedelta(seconds=60)
ENDS_WITHIN = timedelta(seconds=90)
DEEP = "[" * 100_000


def spoil_instance(redis, **fields: str) -> None:
    redis.zadd(keys.INSTANCES, {"svc-tiny-other@alpha": 0})
    redis.sadd(keys.instances_on(ALPHA), "svc-tiny-other@alpha")
    for name, value in fields.items():
        redis.hset(INSTANCE, name, value)


def spoil_operation(redis, **fields: str) -> None:
    redis.zadd(keys.OPERATIONS, {f"{'9' * 13} {EVIL}": 0})
    redis.zadd(keys.ACTIVE, {EVIL: 0})
    redis.zadd(keys.WAITING, {EVIL: 0})
    for name, value in {"state": "queued", **fields}.items():
        redis.hset(keys.operation(EVIL), name, value)


def wrong_type(redis, *names: str) -> None:
    for name in names:
        redis.delete(name)
        redis.rpush(name, "x")


BAD = {
    "a host that is no JSON": lambda redis: redis.hset(keys.HOSTS, "evil", "{"),
    "a host of another name": lambda redis: redis.hset(keys.HOSTS, "evil", redis.hget(keys.HOSTS, ALPHA) or "{}"),
    "a deeply nested host": lambda redis: redis.hset(keys.HOSTS, "evil", DEEP),
    "a host that is no text": lambda redis: redis.hset(keys.HOSTS, "evil", b"\xff\xfe"),
    "a host's name": lambda redis: redis.hset(keys.HOSTS, "\x1b[2J evil", "{}"),
    "a heartbeat far ahead": lambda redis: redis.zadd(keys.HOSTS_SEEN, {"evil": 1e300}),
    "a drained host": lambda redis: redis.hset(keys.DRAINED, "beta", "yesterday"),
    "a count of dropped messages": lambda redis: redis.hset(keys.DROPPED, "alpha", "many"),
    "an empty instance": lambda redis: spoil_instance(redis, record=""),
    "an instance without fence": lambda redis: spoil_instance(redis, record="{}", desired="running"),
    "an instance with another fence": lambda redis: spoil_instance(redis, record="{}", desired="x", fence="x"),
    "an instance of another type": lambda redis: [spoil_instance(redis), wrong_type(redis, INSTANCE)],
    "an instance's id": lambda redis: redis.zadd(keys.INSTANCES, {"svc-tiny-dial@\x1b[2J": 0}),
    "an empty operation": lambda redis: spoil_operation(redis),
    "an operation with other values": lambda redis: spoil_operation(
        redis, routes="x", put_down="x", needs="[", fence="-"
    ),
    "an operation at a time without a zone": lambda redis: spoil_operation(
        redis, kind="start", phase="queued", fence="1", route="host.alpha", created_at="2026-01-01T00:00:00"
    ),
    "a start on an unknown host": lambda redis: spoil_operation(
        redis,
        kind="start",
        phase="queued",
        fence="1",
        service="svc-tiny-dial",
        host="nowhere",
        route="host.nowhere",
        created_at="2026-01-01T00:00:00Z",
    ),
    "an operation of another type": lambda redis: [spoil_operation(redis), wrong_type(redis, keys.operation(EVIL))],
    "an operation's id": lambda redis: redis.zadd(keys.ACTIVE, {"evil": 0}) + redis.zadd(keys.OPERATIONS, {"evil": 0}),
    "an allocation": lambda redis: redis.hset(keys.held(ALPHA), "svc-tiny-other", "much"),
    "an allocation's service": lambda redis: redis.hset(keys.held(ALPHA), "evil", "1 0 1 "),
    "allocations of another type": lambda redis: wrong_type(redis, keys.held(HostName("beta"))),
    "slots of another type": lambda redis: wrong_type(redis, keys.slots(HostName("beta"))),
    "a port lease": lambda redis: [
        redis.zadd(keys.ports(ALPHA), {"20001": "inf"}),
        redis.set("aima:port:alpha:20001", "x"),
    ],
    "a port": lambda redis: [redis.zadd(keys.ports(ALPHA), {"x": 99999}), redis.set("aima:port:alpha:x", "{}")],
    "ports of another type": lambda redis: wrong_type(redis, keys.ports(HostName("beta"))),
    "a service": lambda redis: [
        redis.zadd(keys.SERVICES, {"svc-tiny-x": 0}),
        redis.set("aima:service:svc-tiny-x", "["),
    ],
    "a service of several lines": lambda redis: [
        redis.zadd(keys.SERVICES, {"svc-a\n\nb": 0}),
        redis.set("aima:service:svc-a\n\nb", "{\n\n}\n"),
    ],
    "an instance of several lines": lambda redis: [
        redis.zadd(keys.SERVICES, {"svc-tiny-a": 0}),
        redis.set("aima:service:svc-tiny-a", "["),
        redis.zadd(keys.INSTANCES, {"svc-tiny-a@alpha": 0}),
        redis.hset("aima:instance:svc-tiny-a@alpha", mapping={"record": "\n\n{\n}", "fence": "1\n\n", "desired": "\n"}),
    ],
}


@pytest.fixture(autouse=True)
def no_bad_record_is_left(request):
    """The shared Redis has none of AIMA's own mistakes after the test, and the attacker's are his."""
    servers = []
    if "redis_url" in request.fixturenames:
        request.getfixturevalue("redis_url")  # first, since it checks the keys after this fixture
        servers.append(request.getfixturevalue("shared_redis"))
    if "own_redis" in request.fixturenames:
        servers.append(request.getfixturevalue("own_redis"))
    yield
    for server in servers:
        server.empty()


every_bad_record = pytest.mark.parametrize("bad", BAD)


# The API node -----------------------------------------------------------------------------------------------------


@every_bad_record
def test_one_bad_record_disturbs_no_listing_start_plan_or_stop(node, redis, bad):  # noqa: F811
    alpha, _ = ScriptedWorker(redis), ScriptedWorker(redis, "beta")
    [running] = node.start()
    alpha.is_ready(running)

    BAD[bad](redis)

    listings = ("hosts", "ports", "services", "operations", "services/svc-tiny-dial", "hosts/alpha")
    assert [(path, node.get(f"/v1/{path}").status_code) for path in listings] == [(path, 200) for path in listings]
    assert [each["name"] for each in node.get("/v1/hosts").json()["items"]] == ["alpha", "beta"]
    services = node.get("/v1/services").json()["items"]
    [instances] = [each["instances"] for each in services if each["id"] == "svc-tiny-dial"]
    assert [each["id"] for each in instances] == ["svc-tiny-dial@alpha"]
    assert node.post("/v1/services/svc-tiny-dial:plan").status_code == 200
    [again] = node.start("svc-tiny-dial")
    assert again["state"] == "queued"
    assert node.post("/v1/services/svc-tiny-dial:stop").status_code == 202
    assert node.get("/metrics").status_code == 200


NAMED = {
    "a host that is no JSON": "host evil",
    "an instance without fence": "instance svc-tiny-other@alpha",
    "an instance of another type": "instance svc-tiny-other@alpha",
    "an empty operation": f"operation {EVIL}",
    "an allocation": "allocations on alpha",
    "a service": "service svc-tiny-x",
    "a port lease": "port lease alpha:20001",
}


@pytest.mark.parametrize("bad", NAMED)
def test_a_bad_record_is_reported_by_name_in_the_host_list_and_by_the_doctor(node, redis, redis_url, bad):  # noqa: F811
    ScriptedWorker(redis)

    BAD[bad](redis)

    [reported] = node.get("/v1/hosts").json()["unreadable"]
    assert reported.startswith(NAMED[bad])
    findings = check_hosts(Settings.model_validate({"redis": {"url": redis_url}}))
    assert [NAMED[bad] in found.message for found in findings if found.about == "records"] == [True]


def test_a_name_in_the_doctors_advice_is_quoted_for_the_shell(redis, redis_url):
    redis.hset(keys.HOSTS, "x; reboot", "{")

    [finding] = check_hosts(Settings.model_validate({"redis": {"url": redis_url}}))

    assert "HDEL aima:hosts 'x; reboot'" in str(finding.fix)


def test_a_session_of_another_identity_is_reported(node, redis):  # noqa: F811
    ScriptedWorker(redis)

    redis.hset(keys.HOSTS_SESSIONS, "alpha", "evil session")

    [reported] = node.get("/v1/hosts").json()["unreadable"]
    assert reported.startswith("session of host alpha")


def test_bad_data_is_an_error_of_its_own_and_no_outage(node, redis):  # noqa: F811
    redis.hset(keys.HOSTS, "evil", "{")

    refused = node.get("/v1/hosts/evil")

    assert (refused.status_code, refused.json()["code"]) == (500, "corrupt_data")
    wrong_type(redis, keys.COMMON_LOG)
    with pytest.raises(CorruptData):
        redis.xrevrange(keys.COMMON_LOG, count=1)
    with pytest.raises(CorruptData):
        redis.evalsha(redis.script_load("return cjson.decode('x')"), 0)
    with pytest.raises(BrokerUnavailable):
        redis.execute_command("CONFIG")


def test_a_start_overwritten_between_its_listing_and_its_cancel_blocks_no_stop(node, redis):  # noqa: F811
    ledger = OperationStore(redis)
    cancellations = Cancellations(ledger, ServiceStore(redis, KeyRing([SigningKey(SIGNING_KEY).public])))
    [start] = [ledger.get(OperationId(each["id"])) for each in node.start()]
    redis.hset(keys.operation(start.id), "expires_at", "OWNED")

    cancellations.cancel_listed(start)
    cancellations.supersede(start, by=start)

    with pytest.raises(CorruptData):
        ledger.get(start.id)


def test_a_host_with_an_unreadable_record_can_be_forgotten(node, redis):  # noqa: F811
    redis.hset(keys.HOSTS, "evil", "{")

    assert node.client.delete("/v1/hosts/evil").status_code == 204
    assert node.get("/v1/hosts").json()["unreadable"] == []


def test_a_heartbeat_in_the_future_makes_no_host_live(redis):
    scripted = ScriptedWorker(redis)
    redis.zadd(keys.HOSTS_SEEN, {"alpha": 9e15})

    [host] = HostStore(redis).all()

    assert (host.live, host.silent_for > 1e9, scripted.name) == (False, True, "alpha")
    HostStore(redis).join(ALPHA, identity="another", session="it takes the name of a host that is not live")


def test_a_forged_lock_of_the_controllers_ends(node, redis):  # noqa: F811
    redis.set(keys.UPKEEP, "evil")
    controllers = node.server.config.app.state.controllers

    assert eventually(lambda: controllers._leads() or not redis.get(keys.UPKEEP), within=SOON)


def test_a_bad_event_in_the_log_does_not_end_its_streams(node, redis, worker):  # noqa: F811
    [operation] = node.start()
    redis.xadd(keys.log(operation["id"]), {"event": DEEP})
    redis.xadd(keys.COMMON_LOG, {"event": "{", "seq": "x"})
    redis.delete(keys.log(operation["id"]))
    redis.set(keys.log(operation["id"]), "x")

    worker.is_ready(operation)

    assert node.received(operation["id"])[-1].event == "end"


# The worker -------------------------------------------------------------------------------------------------------

SPOILED = {
    "no kind": {"kind": "dance"},
    "another kind than its command": {"kind": "stop"},
    "no command": {"command": None},
    "a command that is no JSON": {"command": DEEP},
    "no signature": {"signature": None},
    "another signature": {"signature": "x"},
    "no fence": {"fence": "x"},
    "no state": {"state": "dancing"},
    "needs that are no JSON": {"needs": "["},
    "needs of another type": {"needs": '{"memory": "all"}'},
    "no route": {"route": None},
    "a time that is none": {"created_at": "yesterday"},
    "a time without a zone": {"created_at": "2026-01-01T00:00:00"},
    "another host than its route": {"host": "beta"},
    "no attempt": {"attempt": "x"},
    "an attempt far ahead": {"attempt": "99999999999999999999"},
    "a number far ahead": {"seq": "99999999999999999999"},
    "a number below zero": {"seq": "-7"},
    "no number": {"seq": "1e999"},
    "progress": {"progress": DEEP},
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_an_operation_that_no_worker_can_execute_ends_with_the_reason(desk, redis, spoiled):  # noqa: F811
    operation = enqueue_signed(desk.host.operations, a_start_of())
    for name, value in SPOILED[spoiled].items():
        if value is None:
            redis.hdel(keys.operation(operation.id), name)
        else:
            redis.hset(keys.operation(operation.id), name, value)

    execute(desk.host, operation.id)

    fields = redis.hgetall(keys.operation(operation.id))
    assert desk.host.operations.active() == []
    if not spoiled.startswith("a number"):  # which nothing but the events' order depends on
        assert (fields["state"], json.loads(fields["failure"])["message"] != "") == ("failed", True)
        assert desk.host.runtime.containers({}) == []
    else:
        assert fields["state"] == "succeeded"
    execute(desk.host, operation.id)  # delivered again, it changes nothing
    assert redis.hgetall(keys.operation(operation.id)) == fields


def test_an_unreadable_operation_whose_message_is_lost_ends_with_the_reason(desk, redis):  # noqa: F811
    operation = enqueue_signed(desk.host.operations, a_start_of())
    redis.delete(keys.queue("host.alpha"))
    redis.hset(keys.operation(operation.id), "created_at", "yesterday")
    redis.zadd(keys.ACTIVE, {operation.id: 0})

    from aima_core.scheduling.pending import redeliver

    HostStore(redis).join(ALPHA, identity="one", session="here")
    redeliver(desk.host.operations, desk.host.notifier, desk.host.pending_reasons)

    assert redis.hget(keys.operation(operation.id), "state") == "failed"
    assert desk.host.operations.active() == []


@pytest.mark.parametrize("ttl", [None, timedelta(days=9)])
def test_a_forged_claim_ends_so_that_the_operation_is_executed(desk, redis, ttl):  # noqa: F811
    operation = enqueue_signed(desk.host.operations, a_start_of())
    redis.set(keys.claim(operation.id), "evil in attempt 1")
    if ttl:
        redis.expire(keys.claim(operation.id), ttl)

    execute(desk.host, operation.id)

    assert desk.host.operations.get(operation.id).state is State.SUCCEEDED
    forged = enqueue_signed(desk.host.operations, a_stop_of())
    redis.set(keys.claim(forged.id), "evil in attempt 1")
    assert desk.host.operations.request_cancel(forged.id)
    redis.flushall()


def test_forged_slots_keep_no_host_full(desk, redis):  # noqa: F811
    redis.zadd(keys.slots(ALPHA), {f"evil-{number}": "inf" for number in range(100)})
    operation = enqueue_signed(desk.host.operations, a_start_of())

    execute(desk.host, operation.id)

    assert desk.host.operations.get(operation.id).state is State.SUCCEEDED


@every_bad_record
def test_a_bad_neighbour_disturbs_no_claim_and_no_redelivery(desk, redis, bad):  # noqa: F811
    HostStore(redis).join(ALPHA, identity="one", session="here")
    BAD[bad](redis)
    operation = enqueue_signed(desk.host.operations, a_start_of())

    desk.host.operations.find_stalled()
    desk.host.operations.list_pending()
    ClaimStore(redis).release_all_of_host(ALPHA)
    execute(desk.host, operation.id)

    assert desk.host.operations.get(operation.id).state is State.SUCCEEDED
    redis.flushall()


def test_a_foreign_log_of_an_operation_begins_anew(redis):
    store = OperationStore(redis)
    operation = enqueue_signed(store, a_start_of())
    redis.delete(keys.log(operation.id))
    redis.set(keys.log(operation.id), "x")

    assert store.append_event(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message="on")) == 2
    redis.xadd(keys.log(operation.id), {"event": "x"}, id="18446744073709551615-1")
    assert store.append_event(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message="again")) == 3


def test_an_unreadable_instance_is_restored_from_its_container(desk, redis):  # noqa: F811
    from aima_worker.reconciler.loop import ReconcileLoop

    execute(desk.host, enqueue_signed(desk.host.operations, a_start_of()).id)
    id = "svc-tiny-dial@alpha"
    redis.hset(keys.instance(id), "record", "{")

    ReconcileLoop(desk.host).reconcile_once()

    restored = desk.host.services.instance(id)
    assert restored is not None
    assert restored.state == "ready"


# A forged session ---------------------------------------------------------------------------------------------------


@pytest.fixture
def process(worker_environment, own_redis, tmp_path):  # noqa: F811
    """A worker process, and its log."""
    log = tmp_path / "worker.log"
    with log.open("ab") as file:
        started = launch("aima_worker", env=worker_environment, stdout=file, stderr=file)
    assert eventually(lambda: is_consuming(own_redis), within=ENDS_WITHIN), log.read_text()
    yield started, log
    started.kill()
    started.wait()


def is_consuming(server) -> bool:
    with server.client() as client:
        return bool(client.exists("aima:_kombu.binding_permanent.host.alpha"))


def retries_join(link, log: Path) -> bool:
    """Sends a heartbeat of the forged session: without one, its name is free after HOST_DEAD."""
    link.zadd(keys.HOSTS_SEEN, {"alpha": link.time()[0]})
    return "join retried" in log.read_text()


@pytest.mark.slow
def test_a_forged_session_ends_no_worker_which_takes_its_name_back(process, own_redis):
    worker, log = process  # noqa: F811
    link = command_link(own_redis.url)
    own = link.hget(keys.HOSTS_SESSIONS, "alpha")

    link.hset(keys.HOSTS_SESSIONS, "alpha", "evil session")

    assert eventually(lambda: retries_join(link, log), within=ENDS_WITHIN), log.read_text()
    assert worker.poll() is None
    assert eventually(lambda: link.hget(keys.HOSTS_SESSIONS, "alpha") == own, within=ENDS_WITHIN), log.read_text()
    store = OperationStore(link)
    operation = enqueue_signed(store, a_start_of("svc-tiny-next"))
    assert eventually(lambda: store.get(operation.id).attempt > 0, within=ENDS_WITHIN), log.read_text()
    assert worker.poll() is None
    link.close()


@pytest.mark.slow
def test_a_worker_restarted_under_a_forged_session_keeps_trying_and_a_second_one_is_refused(
    process,
    own_redis,
    worker_environment,  # noqa: F811
    tmp_path,
):
    worker, log = process  # noqa: F811
    second = {**worker_environment, "AIMA_STATE_DIR": str(tmp_path / "second")}
    refused = launch("aima_worker", env=second, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(60)
    worker.kill()
    worker.wait()
    link = command_link(own_redis.url)
    link.hset(keys.HOSTS_SESSIONS, "alpha", "evil session")

    with log.open("ab") as file:
        again = launch("aima_worker", env=worker_environment, stdout=file, stderr=file)

    assert refused == 35
    assert eventually(lambda: retries_join(link, log), within=ENDS_WITHIN), log.read_text()
    assert again.poll() is None
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=60) == 0
    link.close()


def test_a_copy_of_the_disk_of_a_host_that_has_joined_is_not_that_host(desk, tmp_path):  # noqa: F811
    from aima_core.queue.transport import DroppedMessages
    from aima_worker.node.facts import host_facts
    from aima_worker.node.heartbeat import Heartbeat

    def beat(session: str) -> Heartbeat:
        facts = host_facts(desk.host.settings, desk.host.runtime)
        options = {"dropped": DroppedMessages(), "redis_is_new": lambda: None, "displaced": lambda _: None}
        return Heartbeat(desk.host, lambda: facts, identity="one", session=session, **options)

    first = beat("boot:1:7")
    first._join()

    assert beat("another boot:1:7").has_joined_before
    assert not beat("boot:1:8").has_joined_before


def test_an_identity_recorded_for_another_live_host_displaces_no_worker(redis):
    ScriptedWorker(redis, "beta")
    hosts = HostStore(redis)
    hosts.join(ALPHA, identity="one", session="here")
    redis.hset(keys.HOSTS_IDENTITIES, "one", "beta")

    hosts.join(ALPHA, identity="one", session="here")


def test_names_of_labels_pass_the_filter_of_the_terminal(capsys):
    from aima_api.cli.tables import print_record, print_records

    evil = {"name": "alpha", "labels": {"\x1b]0;title\x07\x1b[2J": "\x1b[31m"}, "nested": {"a": {"\x1b[1A": [1]}}}
    for output in ("table", "json", "yaml"):
        print_records([evil], {"NAME": "name", "LABELS": "labels", "NESTED": "nested"}, output)
        print_record(evil, output, row=dict)
    print_record({"\x07": "a field"}, "table", row=dict)  # click itself strips escape sequences where no terminal is

    printed = capsys.readouterr().out
    assert not set(printed) & {"\x1b", "\x07"}


def test_what_another_writer_sends_reaches_no_log_unfiltered(capsys):
    import structlog

    from aima_core.logs.sanitize import sanitized_event

    structlog.reset_defaults()
    rendered = sanitized_event(
        None, "warning", {"event": "x", "reason": "\x1b[2J", "of": ["\x07"], "exception": "a\nb\x1b"}
    )

    assert "\x1b" not in str(list(rendered.values())) and "\\x1b" not in repr(rendered)
    assert rendered["exception"].startswith("a\nb")


def test_the_log_of_a_worker_is_filtered(tmp_path, worker_environment, own_redis):  # noqa: F811
    environment, log = {**worker_environment, "AIMA_HOST__NAME": "alpha"}, tmp_path / "worker.log"
    with own_redis.client() as client, log.open("wb") as file:
        client.hset(keys.HOSTS_SESSIONS, "alpha", "\x1b[2Jevil session")
        refused = launch("aima_worker", env=environment, stdout=file, stderr=file)

        def has_ended() -> bool:
            """Sends a heartbeat of the forged session: without one, the worker could take the name."""
            client.zadd(keys.HOSTS_SEEN, {"alpha": client.time()[0]})
            return refused.poll() is not None

        has_been_refused = eventually(has_ended, within=ENDS_WITHIN)
        refused.kill()

    assert has_been_refused, log.read_text()
    assert refused.wait() == 35
    assert b"\x1b" not in log.read_bytes()
    assert Path(tmp_path).exists() and SIGNING_KEY and OperationId(EVIL)
