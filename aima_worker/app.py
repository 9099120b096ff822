"""The worker's composition root: everything is made here, wired, and begun."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import structlog
from celery import signals
from pydantic import SecretStr

from aima_core.domain.services import HostFacts
from aima_core.errors import AimaError, BadSettings, BrokerUnavailable
from aima_core.queue.celery_app import celery_app
from aima_core.queue.notifier import Notifier, stop_queue
from aima_core.queue.transport import DroppedMessages
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.scheduling.pending import PendingReasons
from aima_core.settings import Settings
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore
from aima_core.system.state_dir import lock
from aima_worker.context import HostContext, Probe
from aima_worker.execution.celery_worker import exit_within_deadline, make_celery_worker
from aima_worker.execution.claim_renewal import ClaimRenewer
from aima_worker.execution.redelivery import RedeliveryLoop, take_over_from_predecessor
from aima_worker.execution.tasks import add_tasks
from aima_worker.logs.channel import LogChannel
from aima_worker.logs.collector import LogCollector
from aima_worker.logs.server import BLOCKING_TIMEOUT, LogServer
from aima_worker.node.facts import available_memory, capacity_of, host_facts
from aima_worker.node.heartbeat import Heartbeat, PersistedRedisState, clock_offset
from aima_worker.node.identity import session_of
from aima_worker.node.memory_guard import MemoryWatchdog, floor_of
from aima_worker.operations.readiness import http_status
from aima_worker.process_memory import settle, share_arenas
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtime import ContainerRuntime
from aima_worker.runtime_selection import choose_runtime

REDIS_ANSWER_SECONDS = 10
SECONDS_BETWEEN_TRIES = 2.0

_log = structlog.get_logger()


def run_worker(settings: Settings) -> int:
    """Work until told to end by SIGTERM or SIGINT; gives the exit code. Raises BadSettings."""
    share_arenas()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until Celery minds it: one that has joined leaves
    runtime, native = choose_runtime(settings)
    logging.getLogger("celery.app.trace").setLevel(logging.ERROR)  # it tells of what is handed on with a traceback
    with worker_with_loops(settings, runtime, native=native) as worker:
        settle()
        signals.worker_shutting_down.connect(
            lambda **_: exit_within_deadline(lambda: int(worker.exitcode or 0)), weak=False
        )
        worker.start()
    return int(worker.exitcode or 0)


@contextmanager
def worker_with_loops(
    settings: Settings, runtime: ContainerRuntime, *, native: bool = False, probe: Probe = http_status
) -> Iterator[Any]:
    """This host's Celery worker, to be started; all that goes on beside it has begun, and ends after it.

    At Celery's signal that workers shut down, it hands on what is under way. Raises BadSettings.
    """
    url = settings.redis.url.get_secret_value()
    redis = command_link(url)
    with lock(settings.state_dir.expanduser(), "worker"):
        facts = host_facts(settings, runtime)
        host = make_host(settings, redis, runtime, facts=facts, native=native, probe=probe)
        dropped = DroppedMessages()
        app = celery_app(url, answer_within=REDIS_ANSWER_SECONDS, dropped=dropped)
        add_tasks(app, host)
        worker = make_celery_worker(
            app, name=f"aima@{host.name}", routes=host.routes, stops=stop_queue(host.name), slots=settings.host.slots
        )
        watch = ReconcileLoop(
            host, engine_answers=lambda _: beat.announce_now(), unrecognized_changed=lambda: beat.announce_now()
        )
        beat = make_heartbeat(
            host,
            facts,
            strangers=lambda: watch.unrecognized,
            dropped=dropped,
            redis_is_new=watch.on_redis_reset,
            clock_offset=lambda: clock_offset(redis),
            displaced=lambda why: _leave_the_name(worker, why),
        )
        logs = make_log_server(host, redis, command_link(url, answers_within=BLOCKING_TIMEOUT))
        redelivery = RedeliveryLoop(host)
        # Before Redis answers: a host that was rebooted without a network brings its engines back.
        watch.start(records=False)
        try:
            _when_redis_answers(beat.start)
            watch.enable_records()
            _when_redis_answers(lambda: host.ports.set_range(settings.host.ports))
            _when_redis_answers(lambda: take_over_from_predecessor(host))
            logs.start()
            redelivery.start()
            _end_quickly(host, beat)
            yield worker
            logs.stop()
        finally:
            beat.stop()
            redelivery.stop()
            watch.stop()
            host.claims.stop()


def make_host(
    settings: Settings,
    redis: TextRedis,
    runtime: ContainerRuntime,
    *,
    facts: HostFacts | None = None,
    native: bool = False,
    probe: Probe = http_status,
    available: Callable[[], int] = available_memory,
) -> HostContext:
    """This host, with everything its steps need. Raises BadSettings without a signing key."""
    operations, hosts, allocations = OperationStore(redis), HostStore(redis), AllocationStore(redis)
    name = settings.host.name
    facts = facts or host_facts(settings, runtime)
    measured = settings.host.facts.memory is None and facts.runtime != "fake"
    return HostContext(
        name=name,
        arch=facts.arch,
        routes=facts.routes,
        settings=settings,
        signing_key=_signing_key(settings),
        native=native,
        runtime=runtime,
        operations=operations,
        services=ServiceStore(redis),
        ports=PortStore(redis, name),
        allocations=allocations,
        hosts=hosts,
        notifier=Notifier(redis),
        pending_reasons=PendingReasons(operations, hosts=hosts, allocations=allocations),
        capacity=lambda: capacity_of(facts, measured=measured),
        memory_watchdog=MemoryWatchdog(floor_of(settings.host, facts, measured=measured), available),
        claims=ClaimRenewer(operations, name),
        probe=probe,
    )


def make_heartbeat(
    host: HostContext,
    found: HostFacts,
    *,
    strangers: Callable[[], tuple[str, ...]],
    dropped: DroppedMessages,
    clock_offset: Callable[[], float],
    redis_is_new: Callable[[], None],
    displaced: Callable[[AimaError], None],
) -> Heartbeat:
    """`found` is what was found as the worker came up; what changes is asked anew."""

    def facts() -> HostFacts:
        now = host_facts(host.settings, host.runtime, clock_offset=clock_offset)
        return now.model_copy(update={"strangers": strangers()})

    state_dir = host.settings.state_dir.expanduser()
    return Heartbeat(
        host.hosts,
        host.name,
        facts,
        identity=found.identity,
        session=session_of(state_dir),
        memory=PersistedRedisState(state_dir),
        dropped=dropped,
        redis_is_new=redis_is_new,
        displaced=displaced,
    )


def make_log_server(host: HostContext, redis: TextRedis, blocking: TextRedis) -> LogServer:
    """`blocking` is a connection of its own that waits for BLOCKING_TIMEOUT."""
    answers = LogChannel(redis)
    return LogServer(host, LogCollector(host, answers), requests=LogChannel(blocking), answers=answers)


def _leave_the_name(worker: Any, why: AimaError) -> None:
    _log.error("this worker ends", reason=str(why))
    worker.exitcode = why.exit_code
    os.kill(os.getpid(), signal.SIGTERM)


def _end_quickly(host: HostContext, beat: Heartbeat) -> None:
    """At the first signal, hand on whatever is under way, so that the worker ends within seconds."""

    def hand_on(**_: Any) -> None:
        _log.info("ending", under_way="is handed on; engines keep running")
        host.claims.interrupt_all()
        Thread(target=beat.stop, name="goodbye", daemon=True).start()  # while Celery waits for its queues

    signals.worker_shutting_down.connect(hand_on, weak=False)


def _when_redis_answers(call: Callable[[], None]) -> None:
    """Wait for Redis as long as it takes, saying so."""
    while True:
        try:
            return call()
        except BrokerUnavailable as away:
            _log.warning("waiting for Redis", reason=str(away))
            time.sleep(SECONDS_BETWEEN_TRIES)


def _signing_key(settings: Settings) -> SecretStr:
    if settings.signing_key is None:
        raise BadSettings(detail="`signing_key` is missing.", where="AIMA_SIGNING_KEY; give it the API nodes' own")
    return settings.signing_key
