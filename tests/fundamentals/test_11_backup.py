"""A backup holds what only Redis holds. A restore adds what was lost, and changes nothing that is newer."""

from __future__ import annotations

import json

import fakeredis
import pytest
from lab.commands import KEYS, SIGNING_KEY, a_spec_of
from lab.commands import a_start_of as start_of
from lab.commands import a_stop_of as stop_of

from aima_api import backup as backups
from aima_api.access.keys import KeyOptions, KeyStore, digest_of
from aima_api.access.scopes import Scope
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import InstanceState
from aima_core.errors import BadBackup, NothingLost
from aima_core.redis import keys
from aima_core.store.hosts import HostStore
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import SigningKey

RUNNING, STOPPED = "svc-tiny-dial", "svc-tiny-other"
MOMENTARY = ("aima:port:*", "aima:ports:*", "aima:held:*", "aima:claim:*", "aima:slots:*", "aima:turn:*", "aima:upkeep")


@pytest.fixture
def key_store(fake_redis: fakeredis.FakeRedis) -> KeyStore:
    return KeyStore(fake_redis, KEYS)


def create_key(store: KeyStore, name: str) -> str:
    options = KeyOptions(name=name, scopes=(Scope.READ,))
    return store.create(options, expires=None, by="test", signing_key=SigningKey(SIGNING_KEY))[0]


def restore(redis: fakeredis.FakeRedis, made: backups.Backup) -> list[str]:
    return backups.restore(redis, made, KEYS)


def live_epoch(redis: fakeredis.FakeRedis) -> None:
    """As after the first heartbeat to this Redis."""
    HostStore(redis).heartbeat("alpha", identity="alpha", session="first")


def test_what_was_lost_comes_back_with_no_container_recreated(api, host, fake_redis, lose_redis_data):
    for service in (RUNNING, STOPPED):
        host.execute(api.start(service, model="Dial", replicas=1))
    host.execute(stop_of(STOPPED))
    HostStore(fake_redis).drain("alpha")
    before, operations, container = api.get("/v1/services"), api.operations(), host.container(RUNNING)
    made = backups.made_from(fake_redis)

    lose_redis_data()
    unverified = restore(fake_redis, made)
    host.join()
    host.reconcile()

    assert unverified == []
    assert api.get("/v1/services") == before
    assert api.operations() == operations
    assert api.get(f"/v1/operations/{operations[0]['id']}") == operations[0]
    assert fake_redis.xlen(keys.log(operations[0]["id"])) > 2
    assert fake_redis.ttl(keys.operation(operations[0]["id"])) > 0
    assert api.get("/v1/hosts/alpha")["drained_since"]
    assert host.container(RUNNING) == container


def test_nothing_that_belongs_to_the_moment_is_restored(host, fake_redis, lose_redis_data):
    host.execute(start_of(RUNNING))
    begun = host.submit(start_of(STOPPED))
    made = backups.made_from(fake_redis)

    lose_redis_data()
    restore(fake_redis, made)

    assert [name for pattern in MOMENTARY for name in fake_redis.keys(pattern)] == []
    assert fake_redis.exists(keys.EPOCH, keys.ACTIVE, keys.operation(begun), f"{keys.PREFIX}host.alpha") == 0
    assert fake_redis.zscore(keys.HOSTS_SEEN, "alpha") <= fake_redis.time()[0] - keys.HOST_DEAD.total_seconds()


def test_the_fence_does_not_go_back(host, fake_redis, lose_redis_data):
    fence = host.execute(start_of(RUNNING)).operation.fence + 10_000
    fake_redis.set(keys.FENCE, fence)
    made = backups.made_from(fake_redis)

    lose_redis_data()
    restore(fake_redis, made)
    host.reconcile()

    assert host.execute(stop_of(RUNNING)).operation.fence > fence
    assert host.containers() == []


def test_what_is_newer_than_the_backup_stays(host, fake_redis, lose_redis_data):
    host.execute(start_of(RUNNING))
    ServiceStore(fake_redis, KEYS).put(a_spec_of(RUNNING, revision=1))
    made = backups.made_from(fake_redis)
    lose_redis_data()
    host.execute(stop_of(RUNNING))
    newer = a_spec_of(RUNNING, revision=2)
    ServiceStore(fake_redis, KEYS).put(newer)

    restore(fake_redis, made)
    restore(fake_redis, made)

    assert host.state(RUNNING) is InstanceState.STOPPED
    assert ServiceStore(fake_redis, KEYS).get(ServiceId(RUNNING)).spec == newer.spec


def test_api_keys_come_back_and_revoked_ones_do_not(key_store, fake_redis, lose_redis_data):
    kept, revoked = create_key(key_store, "kept"), create_key(key_store, "revoked")
    key_store.revoke("revoked")
    made = backups.made_from(fake_redis)
    lose_redis_data()
    later = create_key(key_store, "later")

    restore(fake_redis, made)

    assert [each.name for each in key_store.all().items] == ["kept", "later"]
    assert [bool(key_store.find(digest_of(key))[0]) for key in (kept, revoked, later)] == [True, False, True]


def test_a_redis_that_has_lost_nothing_is_left_alone(key_store, fake_redis):
    create_key(key_store, "ci")
    live_epoch(fake_redis)
    made = backups.made_from(fake_redis)
    key_store.revoke("ci")

    with pytest.raises(NothingLost):
        restore(fake_redis, made)

    assert key_store.all().items == []


def test_audit_entries_of_the_backup_come_before_those_since(fake_redis, lose_redis_data):
    for number, entry in enumerate(("first", "second")):
        fake_redis.xadd(keys.AUDIT, {"entry": entry}, id=f"1-{number}")
    made = backups.made_from(fake_redis)
    lose_redis_data()
    fake_redis.xadd(keys.AUDIT, {"entry": "since"})

    restore(fake_redis, made)
    restore(fake_redis, made)

    assert [fields["entry"] for _, fields in fake_redis.xrange(keys.AUDIT)] == ["first", "second", "since"]


def test_a_spec_that_does_not_verify_is_left_out_and_named(fake_redis, lose_redis_data):
    ServiceStore(fake_redis, KEYS).put(a_spec_of(RUNNING))
    made = backups.made_from(fake_redis)
    forged = json.loads(made.services[RUNNING])
    made.services[RUNNING] = json.dumps({**forged, "text": forged["text"].replace(RUNNING, STOPPED)})

    lose_redis_data()

    assert restore(fake_redis, made) == [RUNNING]
    assert not fake_redis.exists(keys.service(ServiceId(RUNNING)))


def test_a_file_that_is_cut_or_changed_is_refused(fake_redis, tmp_path):
    file = tmp_path / "backup"
    backups.write(file, made := backups.made_from(fake_redis))
    whole = file.read_bytes()

    assert backups.read(file) == made
    assert file.stat().st_mode & 0o077 == 0
    for broken in (whole[:-9], whole[: len(whole) // 2], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b"", b"{}"):
        file.write_bytes(broken)
        with pytest.raises(BadBackup):
            backups.read(file)
    backups.write(file, made.model_copy(update={"format": 2}))
    with pytest.raises(BadBackup, match="format 2"):
        backups.read(file)
    with pytest.raises(BadBackup):
        backups.read(tmp_path / "absent")
