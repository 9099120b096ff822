"""A hostile engine on a real Docker Engine harms nothing but itself: its host and its neighbour go on as before.

It runs as root of its container, tries to escape, and then does at once what engines must not: a fork bomb, all memory,
all disk, a flood of log lines, connections to its neighbour; and it ignores SIGTERM. Its limits bound the test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import urlopen

import docker
import pytest
import yaml
from contract.on_docker import connects_from
from faults.processes import SeparateProcesses
from lab.hostile_engine import ATTACKS, GO, LIMITS, SERVES
from lab.images import busybox_image
from lab.parts import eventually, missing, size_of
from lab.redis_server import RedisServer

from aima_core.redis import keys

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.slow]

NEIGHBOUR, HOSTILE = "svc-neighbour-1", "svc-hostile-1"
ANYWHERE = "0.0.0.0"
MOST_LOG = 160 << 20
"""Bytes of a container's log files."""
HEARTBEAT_MISSED_AFTER = 10.0
"""Seconds without a heartbeat, which is sent every five."""
WITHIN = timedelta(seconds=90)


def engine_of(kind: str, command: str, **more: Any) -> dict[str, Any]:
    return {
        "name": f"{kind}-cpu",
        "type": kind,
        "image": busybox_image(),
        "command": ["sh", "-c", command],
        "port": 8000,
        "filesystem": "read-only",
        "tmpfs": {"/tmp": "32MB"},
        "health_check": {"path": "/health", "timeout": "90s"},
        "requires": {"platforms": ["linux/amd64", "linux/arm64"], "memory": "16MB"},
        "limits": LIMITS,
        **more,
    }


class Host(SeparateProcesses):
    def pid_of(self, service: str) -> int:
        return int(self._inspected(service)["State"]["Pid"])

    def address_of(self, service: str) -> str:
        (network,) = self._inspected(service)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def logs_of(self, service: str) -> int:
        """Bytes of its log files."""
        path = Path(self._inspected(service)["LogPath"])
        return size_of(path.parent.glob(f"{path.name}*"))

    def does(self, service: str, *words: str) -> None:
        with closing(docker.from_env()) as client:
            assert client.containers.get(self._name(service)).exec_run(words).exit_code == 0

    def said(self, service: str) -> list[str]:
        with closing(docker.from_env()) as client:
            return client.containers.get(self._name(service)).logs(tail=60).decode(errors="replace").splitlines()

    def start(self, service: str) -> str:
        started = self.aima("service", "start", service, "--expose", "--wait")
        assert started.returncode == 0, started.stderr
        return str(self.instance(service)["endpoint"])

    def _inspected(self, service: str) -> dict[str, Any]:
        with closing(docker.from_env()) as client:
            found: dict[str, Any] = client.api.inspect_container(self._name(service))
            return found

    def _name(self, service: str) -> str:
        return f"{self._installation}.{service}.alpha"


class Watch:
    """Requests to the neighbour and the age of the host's heartbeat, all the time."""

    def __init__(self, endpoint: str, redis: RedisServer) -> None:
        self.failures: list[str] = []
        self.requests = 0
        self.longest_silence = 0.0
        self._endpoint = endpoint
        self._redis = redis
        self._ended = Event()

    @contextmanager
    def kept(self) -> Iterator[None]:
        thread = Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _run(self) -> None:
        with self._redis.client() as redis:
            while not self._ended.wait(0.1):
                self.requests += 1
                (now, _), beat = redis.pipeline().time().zscore(keys.HOSTS_SEEN, "alpha").execute()  # at one moment
                self.longest_silence = max(self.longest_silence, now - float(beat or 0))
                try:
                    with urlopen(f"{self._endpoint}/health", timeout=10) as answer:
                        assert answer.status == 200
                except OSError as failed:
                    self.failures.append(repr(failed))


@pytest.fixture
def host(tmp_path: Path, own_redis: RedisServer, installation: str) -> Iterator[Host]:
    if os.geteuid() != 0:
        missing("only root may write the firewall and enter a container's network")
    for engine in (engine_of("neighbour", SERVES), engine_of("hostile", ATTACKS + SERVES)):
        file = tmp_path / f"catalog/engines/{engine['type']}/{engine['name']}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump(engine))
    running = Host(tmp_path, own_redis.url, installation=installation)
    running.environment |= {"AIMA_API__CATALOG": str(tmp_path / "catalog"), "AIMA_HOST__ADDRESS": ANYWHERE}
    try:
        running.up()
        yield running
    finally:
        running.end()


def test_a_hostile_engine_harms_nothing_but_itself(host: Host, own_redis: RedisServer) -> None:
    endpoint = host.start(NEIGHBOUR)
    host.start(HOSTILE)
    assert eventually(lambda: "tried" in host.said(HOSTILE), within=WITHIN)  # the Docker Engine copies its output
    said = host.said(HOSTILE)
    address, port = host.address_of(NEIGHBOUR), int(endpoint.rpartition(":")[2])
    gateway = address.rpartition(".")[0] + ".1"
    watch = Watch(endpoint, own_redis)

    assert [line for line in said if line.startswith("open ")] == []
    assert len([line for line in said if line.startswith("closed ")]) == 17

    with watch.kept():
        reached = [
            target
            for target in ((address, 8000), (gateway, port), ("172.17.0.1", port))
            if connects_from(host.pid_of(HOSTILE), *target)
        ]
        host.does(HOSTILE, *GO)
        assert eventually(lambda: host.logs_of(HOSTILE) > 10 << 20, within=WITHIN)
        log = host.logs_of(HOSTILE)
        stopped = host.aima("service", "stop", HOSTILE, "--grace", "1s", "--wait")

    assert reached == []
    assert log < MOST_LOG
    assert stopped.returncode == 0, stopped.stderr
    assert [each.name for each in host.containers()] == [f"{host._installation}.{NEIGHBOUR}.alpha"]
    assert (watch.failures, watch.requests > 10) == ([], True)
    assert watch.longest_silence < HEARTBEAT_MISSED_AFTER
    assert host.instance(NEIGHBOUR)["state"] == "ready"
