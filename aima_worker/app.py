"""The worker's composition root: makes everything, wires it, and starts and stops it in order."""

import ctypes
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import Event as Flag
from threading import Thread
from typing import Any

import structlog

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.errors import AimaError, BadSettings, BrokerUnavailable, CorruptData, HostNameTaken, IdentityTaken
from aima_core.queue.celery_app import celery_app
from aima_core.queue.notifier import Notifier
from aima_core.queue.transport import DroppedMessages
from aima_core.redis.connection import command_link, without_credentials
from aima_core.redis.interface import TextRedis
from aima_core.scheduling.pending import PendingReasons
from aima_core.settings import Settings
from aima_core.store.allocations import AllocationStore
from aima_core.store.claims import ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore
from aima_core.system.state_dir import lock
from aima_core.trust.keys import KeyRing, key_ring
from aima_worker.context import HostContext, Probe, Timings
from aima_worker.dataplane.files import EngineAddresses, directory_of
from aima_worker.dataplane.process import DataplaneProcess
from aima_worker.execution.celery_worker import make_celery_worker
from aima_worker.execution.claim_renewal import ClaimRenewer
from aima_worker.execution.fences import FenceMemory
from aima_worker.execution.redelivery import RedeliveryLoop, take_over_from_predecessor
from aima_worker.execution.shutdown import at_shutdown, exit_within_deadline, request_shutdown
from aima_worker.inference.http import Ask, ask
from aima_worker.logs.channel import LogChannel
from aima_worker.logs.collector import LogCollector
from aima_worker.logs.server import BLOCKING_TIMEOUT, LogServer
from aima_worker.models.collection import ModelCollector
from aima_worker.models.sharing import Neighbours
from aima_worker.models.steps import FetchCoordinator
from aima_worker.models.store import ModelStore
from aima_worker.node.disk_guard import DiskGuard, DiskReading, EngineDisk
from aima_worker.node.facts import capacity_of, clock_offset, host_facts, session_of
from aima_worker.node.guarding import Violations
from aima_worker.node.heartbeat import Heartbeat
from aima_worker.node.memory_guard import MemoryGuard, MemoryReading, levels_of, read_memory
from aima_worker.node.model_files import ModelFiles
from aima_worker.node.usage import UsageReport
from aima_worker.operations.container_spec import SERVICE_LABEL, ours
from aima_worker.operations.model_paths import opened_model
from aima_worker.operations.pull import PullCoordinator
from aima_worker.operations.readiness import http_status, last_lines
from aima_worker.operations.removal import mounted_models, record_collection
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtime import Container, ContainerRuntime, Status
from aima_worker.runtime_selection import choose_runtime
from aima_worker.secrets import HostSecrets

REDIS_TIMEOUT = timedelta(seconds=10)
REDIS_RETRY_INTERVAL = timedelta(seconds=2)
JOIN_RETRY_INTERVAL = timedelta(seconds=5)
MALLOC_ARENAS = 2
_M_ARENA_MAX = -8

_log = structlog.get_logger()


def run_worker(settings: Settings) -> int:
    """Works until SIGTERM or SIGINT; returns the exit code. Raises BadSettings."""
    _glibc("mallopt", _M_ARENA_MAX, MALLOC_ARENAS)  # by default each thread has its own arena, and keeps its peak
    worker: Any = None
    with at_shutdown(lambda: exit_within_deadline(lambda: _exit_code(worker))):
        terminated = _exit_on_sigterm()
        runtime, native = choose_runtime(settings)
        logging.getLogger("celery.app.trace").setLevel(logging.ERROR)  # it logs every requeue with a traceback
        with worker_with_loops(settings, runtime, native=native) as worker:
            _shrink_memory()
            if not terminated:
                worker.start()
    return _exit_code(worker)


@contextmanager
def worker_with_loops(
    settings: Settings, runtime: ContainerRuntime, *, native: bool = False, probe: Probe = http_status
) -> Iterator[Any]:
    """Yields this host's Celery worker, to be started; its background loops run already, and stop after it.

    At Celery's shutdown signal, running operations are requeued. Raises BadSettings.
    """
    url = settings.redis.url.get_secret_value()
    redis = command_link(url)
    with lock(settings.state_dir.expanduser(), "worker"):
        facts = host_facts(settings, runtime)
        host = make_host(settings, redis, runtime, facts=facts, native=native, probe=probe)
        dropped = DroppedMessages()
        worker = make_celery_worker(celery_app(url, answer_within=REDIS_TIMEOUT, dropped=dropped), host)
        reconciler = ReconcileLoop(host, facts_changed=lambda: heartbeat.announce_now())
        heartbeat = Heartbeat(
            host,
            lambda: host_facts(
                settings,
                runtime,
                clock_offset=clock_offset(redis),
                strangers=reconciler.unrecognized,
                memory_low=host.memory_guard.low,
                disk_low=host.disk_guard.low and host.disk_guard.low.available,
                disk_reserve=host.disk_guard.levels.reserve,
                models=model_files.directories,
                stored=model_files.stored,
                model_disk=host.fetches.disk,
                fetch_rate=host.fetches.rate,
            ),
            identity=facts.identity,
            session=session_of(settings.state_dir.expanduser()),
            dropped=dropped,
            redis_is_new=reconciler.on_redis_reset,
            displaced=lambda reason: _exit_displaced(worker, reason),
        )
        model_files = ModelFiles(
            settings.host.model_roots,
            changed=heartbeat.announce_now,
            store=settings.model_store,
            stored=host.models.listing,
            measure_disk=host.fetches.measure_disk,
        )
        host.models.changed = model_files.wake
        host.models.sweep()
        processes, restarts = host.memory_guard.processes, reconciler.restarts_of
        usage = UsageReport(host.name, host.hosts, processes=processes, restarts=restarts)
        host.pulls.images_changed = heartbeat.announce_now
        answers = LogChannel(redis)
        requests = LogChannel(command_link(url, answers_within=BLOCKING_TIMEOUT), dropped=dropped)
        logs = LogServer(host, LogCollector(host, answers), requests=requests, answers=answers)
        redelivery = RedeliveryLoop(host)
        dataplane = DataplaneProcess(settings)
        address = without_credentials(url)
        _log.info("worker starting", host=host.name, runtime=facts.runtime, queues=" ".join(host.routes), redis=address)
        start_guarding(host, low_changed=heartbeat.announce_now, killed=reconciler.wake)
        dataplane.start()
        reconciler.start(records=False)  # before Redis answers: after a reboot without a network it restarts engines
        try:
            _join(host, heartbeat, reconciler)
            logs.start()
            redelivery.start()
            model_files.start()
            host.collector.start()
            usage.start()
            with at_shutdown(lambda: _begin_shutdown(host, heartbeat)):
                yield worker
            logs.stop()
        finally:
            model_files.stop()
            host.collector.stop()
            usage.stop()
            dataplane.stop()
            heartbeat.stop()
            redelivery.stop()
            reconciler.stop()
            stop_guarding(host)
            host.claims.stop()


def make_host(
    settings: Settings,
    redis: TextRedis,
    runtime: ContainerRuntime,
    *,
    facts: HostFacts | None = None,
    native: bool = False,
    probe: Probe = http_status,
    ask: Ask = ask,
    memory: Callable[[], MemoryReading] = read_memory,
    disk: Callable[[], DiskReading | None] | None = None,
    timings: Timings | None = None,
) -> HostContext:
    """Raises BadSettings without a key to verify orders with."""
    keys = _trusted_keys(settings)
    settings = settings.model_copy(update={"signing_key": None})
    operations, hosts, allocations = OperationStore(redis), HostStore(redis), AllocationStore(redis)
    claims = ClaimStore(redis)
    name = settings.host.name
    facts = facts or host_facts(settings, runtime)
    measured = settings.host.facts.memory is None and facts.runtime != "fake"
    levels = levels_of(settings.host, facts, measured=measured)
    timings, violations = timings or Timings(), Violations()
    memory_interval, disk_interval = timings.memory_check_interval, timings.disk_check_interval
    capacity_freed, store = Flag(), ModelStore(settings.model_store, host=name)
    host = HostContext(
        name=name,
        arch=facts.arch,
        routes=facts.routes,
        settings=settings,
        keys=keys,
        native=native,
        runtime=runtime,
        operations=operations,
        claim_store=claims,
        services=ServiceStore(redis, keys),
        ports=PortStore(redis, name),
        allocations=allocations,
        hosts=hosts,
        notifier=Notifier(redis),
        pending_reasons=PendingReasons(operations, hosts=hosts, allocations=allocations),
        capacity=partial(capacity_of, facts, measured=measured),
        memory_guard=MemoryGuard(levels, memory, violations=violations, interval=memory_interval),
        disk_guard=DiskGuard(settings.host, disk or EngineDisk(runtime), violations=violations, interval=disk_interval),
        violations=violations,
        claims=ClaimRenewer(operations, claims, name, capacity_freed=capacity_freed),
        fences=FenceMemory(settings.state_dir.expanduser() / "fences"),
        pulls=PullCoordinator(runtime, stall=settings.docker.stall),
        models=store,
        fetches=FetchCoordinator(
            store, settings, Neighbours(redis, settings), open_directory=partial(opened_model, settings)
        ),
        collector=ModelCollector(store, settings),
        secrets=HostSecrets(settings),
        addresses=EngineAddresses(directory_of(settings)),
        probe=probe,
        ask=ask,
        capacity_freed=capacity_freed,
        timings=timings,
    )
    store.make_room = host.collector.make_room
    host.collector.mounted = partial(mounted_models, host)
    host.collector.record = partial(record_collection, host)
    return host


def _trusted_keys(settings: Settings) -> KeyRing:
    keys = key_ring(settings)
    if not keys.trusts_any:
        where = "AIMA_TRUSTED_KEYS: the API nodes' public key, as `aima key public` prints it there"
        raise BadSettings(detail="There is no key to verify orders with.", where=where)
    return keys


def start_guarding(host: HostContext, *, low_changed: Callable[[], None], killed: Callable[[], None]) -> None:
    """Memory and disk, until `stop_guarding`."""

    def remove(instance: InstanceId, container: str) -> tuple[str, ...]:
        name = host.container_name(instance.service)
        found = host.runtime.find(name)
        if found is None or found.id != container:
            return ()
        tail = last_lines(host, name)
        host.runtime.remove(name, grace=timedelta())
        return tail

    def announce() -> None:
        low_changed()
        host.capacity_freed.set()

    def measure() -> dict[InstanceId, Container]:
        listed = host.runtime.containers(ours(host), sizes=True)
        running = [each for each in listed if each.status is Status.RUNNING and SERVICE_LABEL in each.labels]
        return {ServiceId(each.labels[SERVICE_LABEL]).on(host.name): each for each in running}

    host.memory_guard.start(remove=remove, low_changed=announce, killed=killed)
    host.disk_guard.start(measure=measure, remove=remove, low_changed=announce, killed=killed)


def stop_guarding(host: HostContext) -> None:
    host.memory_guard.stop()
    host.disk_guard.stop()


def _join(host: HostContext, heartbeat: Heartbeat, reconciler: ReconcileLoop) -> None:
    """Joins the fleet, waiting for Redis if need be. Raises HostNameTaken, IdentityTaken.

    A host that had the name before waits for it, too, while its engines are watched: whoever writes to Redis can forge
    the session of another worker.
    """
    set_range = partial(host.ports.set_range, host.settings.host.ports)
    take_over = partial(take_over_from_predecessor, host)
    steps: list[Callable[[], None]] = [heartbeat.start, reconciler.enable_records, set_range, take_over]
    waiting_for = ""
    while steps:
        try:
            steps[0]()
            del steps[0]
        except (BrokerUnavailable, CorruptData) as unavailable:
            if str(unavailable) != waiting_for:
                waiting_for = str(unavailable)
                what = "Redis" if isinstance(unavailable, BrokerUnavailable) else "readable data in Redis"
                _log.warning(f"waiting for {what}", reason=waiting_for)
            time.sleep(REDIS_RETRY_INTERVAL.total_seconds())
        except (HostNameTaken, IdentityTaken) as taken:
            if not heartbeat.has_joined_before:
                raise
            _log.error("worker displaced, join retried", reason=str(taken), meanwhile="engines are watched")
            time.sleep(JOIN_RETRY_INTERVAL.total_seconds())
    _log.info("worker joined", host=host.name)


def _exit_on_sigterm() -> list[int]:
    """Until Celery handles SIGTERM: a host that has joined leaves. Returns a list of the signals received.

    The exception of a signal handler is lost if the signal arrives during a finalizer, such as one of the import
    system: then the list or the deadline ends the worker.
    """
    terminated: list[int] = []

    def leave(number: int, _: object) -> None:
        terminated.append(number)
        request_shutdown()
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    return terminated


def _exit_code(worker: Any) -> int:
    """A displaced worker does not exit: it re-executes itself in the same process, and waits for its name."""
    if getattr(worker, "displaced", False):
        os.execv(sys.executable, sys.orig_argv)
    return int(getattr(worker, "exitcode", None) or 0)


def _exit_displaced(worker: Any, reason: AimaError) -> None:
    _log.error("worker displaced", reason=str(reason))
    worker.displaced = True
    os.kill(os.getpid(), signal.SIGTERM)


def _begin_shutdown(host: HostContext, heartbeat: Heartbeat) -> None:
    """At the first signal, so that the worker exits within seconds: requeues operations; engines keep running."""
    _log.info("worker shutting down", running=len(host.claims.running_services()))
    host.claims.cancel_all()
    Thread(target=heartbeat.stop, name="leave", daemon=True).start()  # while Celery waits for its queues


def _shrink_memory() -> None:
    """The host's memory belongs to its engines: returns to the kernel what starting up has left over."""
    gc.collect()
    gc.freeze()  # traversing these objects at each collection would cost starts milliseconds
    _glibc("malloc_trim", 0)


def _glibc(name: str, *args: int) -> None:
    """Does nothing with another C library."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*args)
