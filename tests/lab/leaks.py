"""Leak detection: containers, leases, keys, threads and descriptors that a test left behind."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import docker
import uvloop
from lab.keyspace import odd_keys
from lab.parts import eventually
from lab.redis_server import RedisServer
from redis import RedisError

from aima_core.domain.ids import HostName
from aima_core.errors import EngineRefused
from aima_core.redis.interface import TextRedis
from aima_core.store.operations import OperationStore
from aima_core.store.ports import PortStore
from aima_worker.runtime import ContainerRuntime
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

SETTLES_WITHIN = timedelta(seconds=30)
BEFORE_COLLECTION = timedelta(seconds=2)
LEFT_TO_THE_COLLECTOR = "anon_inode:[eventpoll]"
"""Left open by kombu when it closes a connection. An open event loop also has a pipe or socket."""
INSTALLATION_LABEL = "aima.installation"
PORT_LABEL = "aima.port"


@dataclass(frozen=True)
class Holdings:
    """A snapshot of this process's threads and descriptors."""

    threads: frozenset[threading.Thread]
    descriptors: dict[str, str]
    """Number → target."""

    @classmethod
    def now(cls) -> Holdings:
        return cls(frozenset(threading.enumerate()), dict(_descriptors()))

    def beyond(self, before: Holdings) -> list[str]:
        """The new threads and descriptors, a line each. A descriptor counts if its number is new."""
        threads = [_described(thread) for thread in self.threads - before.threads if thread.is_alive()]
        opened = self.descriptors.keys() - before.descriptors.keys()
        return threads + [f"descriptor {each} on {_with_ends(each, self.descriptors[each])}" for each in sorted(opened)]


@contextmanager
def nothing_held(*, settles_within: timedelta = SETTLES_WITHIN) -> Iterator[None]:
    """Fails if the block leaves a thread or a descriptor behind, after a delay for threads that are ending."""
    before = Holdings.now()
    yield
    left = Holdings.now().beyond(before)

    def settles() -> bool:
        nonlocal left
        left = _held_beyond(before)
        return not left

    if left and not eventually(settles, within=BEFORE_COLLECTION):
        gc.collect()  # what it closes is no leak, such as a connection in a cycle of garbage
    assert not left or eventually(settles, within=settles_within), f"left behind: {', '.join(left)}"


def open_what_lasts() -> None:
    """Opens the descriptors that a library keeps open after its first use."""
    uvloop.new_event_loop().close()  # the pipe by which all its loops receive signals


def containers_of(installation: str) -> list[str]:
    """The names of all containers, running or not, of that installation."""
    client = docker.from_env()
    try:
        label = f"{INSTALLATION_LABEL}={installation}"
        return [name for each in client.api.containers(all=True, filters={"label": label}) for name in each["Names"]]
    finally:
        client.close()


@contextmanager
def no_container_of(installation: str, *, settles_within: timedelta = SETTLES_WITHIN) -> Iterator[None]:
    """Fails if a container of that installation exists after the block."""
    yield
    eventually(lambda: not containers_of(installation), within=settles_within)
    left = containers_of(installation)
    remove_networks(installation)
    assert not left, f"containers left behind: {', '.join(left)}"


def remove_networks(*installations: str) -> None:
    """The engines' networks of these installations, or of all; one that is in use stays."""
    with closing(docker.from_env()) as client, closing(DockerSdkRuntime(host="leaks")) as runtime:
        labelled = client.networks.list(filters={"label": INSTALLATION_LABEL})
        for installation in installations or [each.attrs["Labels"][INSTALLATION_LABEL] for each in labelled]:
            with suppress(EngineRefused):
                runtime.remove_network(installation)


@contextmanager
def no_lease_alone(redis: TextRedis, runtime: ContainerRuntime, *, host: str = "alpha") -> Iterator[None]:
    """Fails if a port is leased after the block to an instance without a container or an active operation."""
    yield
    left = _leased_alone(redis, runtime, HostName(host))
    assert not left, f"leases left behind: {', '.join(left)}"


def odd_keys_of(server: RedisServer) -> list[str]:
    """A sentence on each key that should not exist, or lacks its TTL; none if the server is down."""
    try:
        with server.client() as client:
            return odd_keys(client)
    except RedisError:
        return []


def _leased_alone(redis: TextRedis, runtime: ContainerRuntime, host: HostName) -> list[str]:
    operations = OperationStore(redis)
    under_way = {operations.get(id).service for id in operations.active()}
    in_use = {container.labels.get(PORT_LABEL) for container in runtime.containers({})}
    leases = [lease for lease in PortStore(redis, host).all() if lease.holder.service not in under_way]
    return [f"port {lease.port} of {lease.holder}" for lease in leases if str(lease.port) not in in_use]


def _described(thread: threading.Thread) -> str:
    """Its name and the call that it is in."""
    frame = sys._current_frames().get(thread.ident or 0)
    calls = traceback.extract_stack(frame) if frame is not None else []
    return f"thread {thread.name}" + "".join(f" > {Path(each.filename).name}:{each.lineno}" for each in calls[-6:])


def _with_ends(descriptor: str, target: str) -> str:
    """With the addresses of a socket, unless it was closed meanwhile."""
    if not target.startswith("socket:"):
        return target
    with suppress(OSError):
        found = socket.socket(fileno=int(descriptor))
        try:
            ends = [str(found.getsockname())]
            with suppress(OSError):
                ends.append(str(found.getpeername()))
        finally:
            found.detach()
        return f"{target} ({' to '.join(ends)})"
    return target


def _held_beyond(before: Holdings) -> list[str]:
    gc.collect()  # some libraries close only in their finalizers
    return Holdings.now().beyond(before)


def _descriptors() -> Iterator[tuple[str, str]]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            on = str(entry.readlink())
        except FileNotFoundError:
            continue  # the descriptor of this listing
        if on != LEFT_TO_THE_COLLECTOR:
            yield entry.name, on
