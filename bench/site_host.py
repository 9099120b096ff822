"""`python -m bench.site_host FILE`: a host of `bench models`, which fetches on request and serves by its data plane.

It takes requests from a list in Redis, and answers each with the seconds of the clock and of the CPU.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import psutil

from aima_core.domain.models import Manifest
from aima_core.redis.connection import command_link
from aima_core.settings import Settings
from aima_core.store.hosts import HostStore
from aima_worker.dataplane.process import DataplaneProcess
from aima_worker.models.fetch import FetchOrder, ModelFetch
from aima_worker.models.sharing import Neighbours
from aima_worker.models.store import ModelStore
from aima_worker.node.facts import host_facts
from aima_worker.operations.model_paths import opened_model
from aima_worker.runtimes.fake.runtime import FakeRuntime

PATIENCE = 300
"""Seconds until the next request."""


def main(file: str) -> None:
    given = json.loads(Path(file).read_text())
    settings = Settings.model_validate(given["settings"])
    name = settings.host.name
    plane = DataplaneProcess(settings)
    plane.start()
    with closing(
        command_link(settings.redis.url.get_secret_value(), answers_within=timedelta(seconds=PATIENCE + 10))
    ) as redis:
        hosts, store = HostStore(redis), ModelStore(settings.model_store, host=name)
        hosts.join(name, identity=name, session="bench")
        hosts.announce(host_facts(settings, FakeRuntime(host=name, arch="amd64", images=[])))
        neighbours = Neighbours(redis, settings)
        redis.rpush("bench:ready", name)
        while (request := redis.blpop(f"bench:{name}", PATIENCE)) and request[1] != "end":
            manifest = Manifest.model_validate_json(Path(request[1]).read_text())
            cpu, served, began = _cpu(), _cpu_of_children(), time.monotonic()
            for progress in ModelFetch(
                store, FetchOrder(manifest, None), settings, neighbours, open_directory=partial(opened_model, settings)
            ):
                last = progress
            answer = {
                "seconds": time.monotonic() - began,
                "cpu": _cpu() - cpu,
                "served": _cpu_of_children() - served,
                "from_hosts": last.from_hosts,
            }
            redis.rpush("bench:done", json.dumps(answer))
    plane.stop()


def _cpu() -> float:
    return sum(psutil.Process().cpu_times()[:2])


def _cpu_of_children() -> float:
    """Of the data plane."""
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))


if __name__ == "__main__":
    main(sys.argv[1])
