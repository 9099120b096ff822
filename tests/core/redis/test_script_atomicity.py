"""Scripts are atomic: a Redis that is full or read-only refuses a script as a whole.

Redis checks its memory at a script's first write only: a script that begins with a deletion runs to its end.
"""

from __future__ import annotations

import pytest
from lab.commands import a_pull, a_start_of, enqueue_signed
from redis import Redis

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.operations import Event, Phase, State
from aima_core.domain.resources import HostCapacity
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import BrokerUnavailable
from aima_core.redis.connection import command_link
from aima_core.store.claims import ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore

pytestmark = pytest.mark.redis

ALPHA = HostName("alpha")
INSTANCE = ServiceId("svc-tiny-dial").on(ALPHA)
ROOM = HostCapacity(slots=4, memory=1 << 30, available=1 << 30, unified=False, gpus=())


class Stores:
    """Records of every kind; each script changes some of them."""

    def __init__(self, link):
        self.operations, self.hosts, self.services = OperationStore(link), HostStore(link), ServiceStore(link)
        self.ports, self.claims = PortStore(link, ALPHA), ClaimStore(link)
        self.hosts.join(ALPHA, identity="alpha's", session="one")
        self.ports.set_range(range(20000, 20010))
        self.queued = enqueue_signed(self.operations, a_start_of())
        self.taken = enqueue_signed(self.operations, a_pull())
        self.claimed = self.claims.claim(self.taken.id, ALPHA, ROOM)
        self.leased = self.ports.lease(INSTANCE, fence=1)

    def instance(self):
        return Instance(
            id=INSTANCE, desired=Desired.STOPPED, fence=self.queued.fence, state=InstanceState.STARTING, since=now()
        )

    def moved_on(self):
        return Event(operation=self.taken.id, at=now(), phase=Phase.PULLING)

    def ended(self):
        return Event(operation=self.taken.id, at=now(), phase=Phase.PULLED)


STEPS = {
    "reserve": lambda stores: stores.operations.reserve_fences(2),
    "enqueue": lambda stores: enqueue_signed(stores.operations, a_start_of("svc-tiny-other")),
    "claim": lambda stores: stores.claims.claim(stores.queued.id, ALPHA, ROOM),
    "renew": lambda stores: stores.claims.renew(stores.taken.id, ALPHA, stores.claimed.attempt),
    "record": lambda stores: stores.operations.append_event(stores.moved_on(), attempt=stores.claimed.attempt),
    "record an end": lambda stores: stores.operations.append_event(stores.ended(), attempt=stores.claimed.attempt),
    "cancel": lambda stores: stores.operations.request_cancel(stores.queued.id),
    "intend": lambda stores: stores.services.set_desired(stores.instance()),
    "lease a port": lambda stores: stores.ports.lease(ServiceId("svc-tiny-other").on(ALPHA), fence=2),
    "join": lambda stores: stores.hosts.join(HostName("beta"), identity="beta's", session="one"),
    "beat": lambda stores: stores.hosts.heartbeat(ALPHA, identity="alpha's", session="one"),
}


LET_IN = {"claim"}
"""It begins with the deletion of expired leases."""


@pytest.mark.parametrize("step", sorted(STEPS.keys() - LET_IN))
def test_a_script_that_a_full_redis_refuses_changes_nothing_and_can_be_retried(a_redis, step):
    server = a_redis()
    link = command_link(server.url)
    stores = Stores(link)
    before = everything(server)

    server.fill()
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        STEPS[step](stores)
    server.make_room()

    assert everything(server) == before
    STEPS[step](stores)
    assert everything(server) != before
    link.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_script_that_a_replica_refuses_changes_nothing(a_redis, step):
    server, master = a_redis(), a_redis()
    link = command_link(server.url)
    stores = Stores(link)
    before = everything(server)

    master.kill()  # or the replica would first discard its data
    server.follow(master)
    with pytest.raises(BrokerUnavailable, match="read-only replica"):
        STEPS[step](stores)

    assert everything(server) == before
    link.close()


def test_a_script_that_a_full_redis_admits_runs_to_its_end(a_redis):
    server = a_redis()
    link = command_link(server.url)
    stores = Stores(link)

    server.fill()
    claimed = STEPS["claim"](stores)
    server.make_room()

    record = stores.operations.get(stores.queued.id)
    assert (record.state, record.host, record.attempt) == (State.RUNNING, ALPHA, claimed.attempt)
    assert "held by alpha" in STEPS["claim"](stores).reason
    link.close()


def everything(server):
    """Each key's value, without its TTL: as Redis serializes it, but for hashes, whose order may change."""
    with Redis(port=server.port, socket_timeout=1) as client:
        of_type = {b"hash": client.hgetall}
        return {key: of_type.get(client.type(key), client.dump)(key) for key in client.keys("*")}
