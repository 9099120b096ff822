"""The cost of an idle worker: memory, and commands to Redis.

A real worker on this machine's runtime, with a private Redis. Commands within its scripts do not count.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import psutil
from lab.parts import eventually, free_port
from lab.redis_server import RedisServer

from aima_core.redis.connection import command_link
from aima_core.store.hosts import HostStore
from bench.comparison import Bounded, Result, span
from bench.installation import STARTS_WITHIN, own_redis, process, settings_of

SETTLES_SECONDS = span(5)
MOST_MB = 75
MOST_COMMANDS = 2
"""Per second."""


def idle_worker(seconds: float) -> list[Result]:
    with TemporaryDirectory(prefix="aima-bench-") as name, own_redis(Path(name)) as server:
        directory = Path(name)
        reported = settings_of(f"b{uuid.uuid4().hex[:12]}", directory, redis_url=server.url, port=free_port())
        environment = os.environ | reported | {"AIMA_RUNTIME": "auto"}
        with process([sys.executable, "-m", "aima_worker"], environment, log=directory / "worker.log") as pid:
            hosts = HostStore(command_link(server.url))
            if not eventually(lambda: any(host.live for host in hosts.all()), within=STARTS_WITHIN):
                raise RuntimeError(f"no worker within {STARTS_WITHIN}:\n{(directory / 'worker.log').read_text()}")
            time.sleep(SETTLES_SECONDS)
            sent = commands_sent(server, seconds)
            memory = psutil.Process(pid).memory_info().rss / 1e6
    return [
        Bounded("idle worker: memory (RSS)", [memory], "MB", most=MOST_MB),
        Bounded("idle worker: Redis commands", [sum(sent.values()) / seconds], "/s", most=MOST_COMMANDS),
    ]


def commands_sent(server: RedisServer, seconds: float) -> Counter[str]:
    """The number of commands that clients send meanwhile, by name."""
    sent: Counter[str] = Counter()
    over = uuid.uuid4().hex
    with server.client() as watching, server.client() as ending, watching.monitor() as monitor:
        monitor.connection._sock.settimeout(None)  # the connection may stay silent for long
        timer = Timer(seconds, ending.echo, [over])
        timer.start()
        while over not in (said := monitor.next_command())["command"]:
            if said["client_type"] != "lua":
                sent[said["command"].split(" ", 1)[0]] += 1
        timer.join()
    return sent
