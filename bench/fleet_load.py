"""The Redis load of a thousand idle hosts, at the rates of real workers, from a few processes.

Heartbeats, facts, redelivery and reconcile passes are the workers' own calls. The blocking reads of Celery and the
log server are simulated: per host two BRPOP of two seconds and one BLPOP, each on its own connection.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from threading import Thread
from urllib.parse import urlsplit

import uvloop

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import HostName
from aima_core.queue.notifier import stop_queue
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore
from bench.elsewhere import elsewhere
from bench.installation import facts_of

PROCESSES = 4
BEAT_SECONDS, FACTS_SECONDS, SWEEP_SECONDS, WATCH_SECONDS, PORTS_SECONDS = 5.0, 60.0, 7.0, 5.0, 15.0
TAKES_SECONDS, ASKED_SECONDS = 2, 30
_PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")


@contextmanager
def load_of(hosts: int, redis_url: str) -> Iterator[None]:
    """Waits until all hosts are running."""
    with ExitStack() as stack:
        for number in range(PROCESSES):
            stack.enter_context(elsewhere(_live, redis_url, range(hosts)[number::PROCESSES]))
        yield


# In each of the processes ------------------------------------------------------------------------------------------


def _live(reported: Connection, redis_url: str, numbers: Sequence[int]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    hosts = [facts_of(number) for number in numbers]
    stores = HostStore(command_link(redis_url))
    for host in hosts:
        stores.join(host.name, identity=host.name, session=host.name)
    Thread(target=_keep_calling, args=(redis_url, hosts), daemon=True).start()
    uvloop.run(_keep_waiting(redis_url, [host.name for host in hosts], reported))


def _keep_calling(redis_url: str, hosts: Sequence[HostFacts]) -> None:
    """Each call at its own interval, and each host with its own offset."""
    due = [
        (time.monotonic() + random.uniform(0, every), number, every, call)
        for number, (every, call) in enumerate(_calls(redis_url, hosts))
    ]
    heapq.heapify(due)
    while True:
        at, number, every, call = due[0]
        time.sleep(max(0.0, at - time.monotonic()))
        call()
        heapq.heapreplace(due, (at + every, number, every, call))


def _calls(redis_url: str, hosts: Sequence[HostFacts]) -> Iterator[tuple[float, Callable[[], object]]]:
    redis = command_link(redis_url)
    store, operations, services = HostStore(redis), OperationStore(redis), ServiceStore(redis)
    for host in hosts:
        name, ports = host.name, PortStore(redis, host.name)
        yield BEAT_SECONDS, lambda name=name: store.heartbeat(name, identity=name, session=name)  # type: ignore[misc]  # the default binds it
        yield FACTS_SECONDS, lambda host=host: store.announce(host)  # type: ignore[misc]  # as above
        yield SWEEP_SECONDS, operations.find_stalled
        yield WATCH_SECONDS, lambda name=name: services.instances_on(name)  # type: ignore[misc]  # as above
        yield PORTS_SECONDS, ports.all


async def _keep_waiting(redis_url: str, hosts: Sequence[HostName], reported: Connection) -> None:
    address = urlsplit(redis_url)
    waits = []
    for host in hosts:
        for words in _waits_of(host):
            line = await asyncio.open_connection(address.hostname, address.port)
            waits.append(_wait_again_and_again(*line, _command(words)))
    reported.send("waiting")
    await asyncio.gather(*waits)


def _waits_of(host: HostName) -> list[list[str]]:
    taken = [keys.queue(queue) for queue in (f"host.{host}", "cpu.amd64")]
    stops = keys.queue(stop_queue(host))
    return [
        ["BRPOP", *(f"{queue}{each}" for each in _PRIORITIES for queue in taken), str(TAKES_SECONDS)],
        ["BRPOP", *(f"{stops}{each}" for each in _PRIORITIES), str(TAKES_SECONDS)],
        ["BLPOP", keys.asked(host), str(ASKED_SECONDS)],
    ]


async def _wait_again_and_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: bytes) -> None:
    while True:
        writer.write(command)
        answer = await reader.readline()
        if answer not in (b"*-1\r\n", b"$-1\r\n"):
            raise RuntimeError(f"something is there: {answer!r}")


def _command(words: Sequence[str]) -> bytes:
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)])
