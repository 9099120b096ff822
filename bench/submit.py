"""Submission of starts over HTTP, against a loop that sends bare Celery tasks and against Flower's `async-apply`.

Ours are recorded, signed and answered one by one by one API process. Theirs is the loop that a user would write,
and the HTTP front end for Celery. Nothing is executed. Starts of services that ran before are compared with those of
new ones: one reads and verifies what the other signs and stores.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

from celery import Celery
from lab.parts import eventually, free_port

from aima_core.domain.ids import EngineName, HostName, ServiceId
from aima_core.domain.services import Desired, Instance, InstanceState, Service
from aima_core.redis.connection import command_link
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import SigningKey
from aima_core.trust.records import SignedService
from bench import rival
from bench.comparison import Comparison, RateAtLeast, RatioAtMost, size, take_turns
from bench.crowd import seconds_for
from bench.installation import SIGNING_KEY, STARTS_WITHIN, Installation, installation, process

ROUNDS = 15
NEEDS = ("redis",)
SERVICE = "svc-tiny-dial"
ENGINE = "dial-cpu"
STARTS = size(500)
NO_SLOWER = RatioAtMost(1.1)
"""With the tolerance of one machine under its own load."""
_AS_DIAL = json.dumps({"engine": ENGINE, "model": "Dial"}).encode()
INSTANCES = size(1000)
"""Instances of one service, each on another host."""


def measure(rounds: int) -> list[Comparison]:
    return [*_one_by_one(rounds), _all_at_once(rounds)]


def _one_by_one(rounds: int) -> list[Comparison]:
    number = count()
    with installation(hosts=3) as aima, _flower(aima.redis_url) as flower, rival.application(aima.redis_url) as app:
        seconds = take_turns(
            rounds,
            {
                "aima": lambda: seconds_for(_starting_others(aima, next(number)), _AS_DIAL, times=STARTS),
                "aima again": lambda: seconds_for(_starting_again(aima, next(number)), b"{}", times=STARTS),
                "apply_async": lambda: _loop(app, STARTS),
                "Flower": lambda: seconds_for(flower, _asked_of_flower(), times=STARTS, status=200),
            },
        )
    ours = seconds["aima"]
    return [
        Comparison(f"{STARTS} starts, against an apply_async loop", ours, seconds["apply_async"], RateAtLeast(0.8)),
        Comparison(f"{STARTS} starts, against Flower's async-apply", ours, seconds["Flower"], RateAtLeast(1.2)),
        Comparison(f"{STARTS} starts of stopped services, against new ones", seconds["aima again"], ours, NO_SLOWER),
    ]


def _all_at_once(rounds: int) -> Comparison:
    number = count()
    body = json.dumps({"engine": ENGINE, "model": "Dial", "replicas": INSTANCES}).encode()
    with installation(hosts=INSTANCES) as aima, rival.application(aima.redis_url) as app:
        seconds = take_turns(
            rounds,
            {
                "aima": lambda: seconds_for(_starting_others(aima, next(number))[0], body, times=1),
                "apply_async": lambda: _loop(app, INSTANCES),
            },
        )
    what = f"{INSTANCES} instances in one request, against an apply_async loop"
    return Comparison(what, seconds["aima"], seconds["apply_async"], RateAtLeast(3))


def _starting_others(aima: Installation, number: int) -> list[str]:
    """Of services that no round before has started: an equal start would join the one in progress."""
    return [_start_of(aima, id) for id in _ids(number)]


def _starting_again(aima: Installation, number: int) -> list[str]:
    """Of services that ran on one host and were stopped."""
    store, key = ServiceStore(command_link(aima.redis_url)), SigningKey(SIGNING_KEY)
    for id in _ids(number):
        service = Service(id=id, engine=EngineName(ENGINE), model="Dial", created_at=now())
        store.put(SignedService.of(service, key))
        stopped = {"desired": Desired.STOPPED, "state": InstanceState.STOPPED, "fence": 1, "since": now()}
        store.replace_desired(Instance(id=id.on(HostName("host-0")), **stopped))
    return [_start_of(aima, id) for id in _ids(number)]


def _ids(number: int) -> list[ServiceId]:
    return [ServiceId(f"svc-tiny-{number}-{each}") for each in range(STARTS)]


def _start_of(aima: Installation, service: ServiceId) -> str:
    return f"{aima.url}/v1/services/{service}:start"


def _loop(app: Celery, times: int) -> float:
    task = app.tasks[rival.TASK]
    began = time.perf_counter()
    for _ in range(times):
        task.apply_async((SERVICE, ENGINE), queue=rival.QUEUE)
    return time.perf_counter() - began


def _asked_of_flower() -> bytes:
    return json.dumps({"args": [SERVICE, ENGINE], "queue": rival.QUEUE}).encode()


@contextmanager
def _flower(broker: str) -> Iterator[str]:
    """Its URL for tasks on loopback, during the bench."""
    port = free_port()
    environment = os.environ | {rival.BROKER: broker, "FLOWER_UNAUTHENTICATED_API": "1"}
    options = ["-A", "bench.rival", "flower", "--address=127.0.0.1", f"--port={port}", "--logging=error"]
    with TemporaryDirectory(prefix="aima-bench-") as directory:
        log = Path(directory) / "flower.log"
        with process([sys.executable, "-m", "celery", *options], environment, log=log):
            url = f"http://127.0.0.1:{port}"
            if not eventually(lambda: _answers(url), within=STARTS_WITHIN):
                raise RuntimeError(f"no Flower within {STARTS_WITHIN.seconds} s:\n{log.read_text()[-2000:]}")
            yield f"{url}/api/task/async-apply/{rival.TASK}"


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/healthcheck", timeout=1):
            return True
    except URLError:
        return False
