"""The stage of fakes: a fleet of hosts in a few processes, two API nodes, and a real Redis."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from api.catalog.entries import write
from chaos import at_rest, doorbells
from chaos.asking import Node
from chaos.plan import Fault, Shape, Step
from chaos.stage import Found, Held
from lab.api_process import ApiProcess
from lab.fleet import Cannot, FakeHost, Fleet, FleetProcess, fleet_on
from lab.parts import eventually
from lab.redis_server import RedisServer, redis_program

from aima_core.redis.connection import RedisClient, command_link

INSTALLATION = "fleet"
SHARES = (1, 1, 1, 1, 3, 3)
"""The hosts of each process: one that is alone with its loss is lost, several at once may be suspected."""
SLOTS = 2
IMAGE = "chaos:1"
ENGINE = f"""\
name: chaos-cpu
type: chaos
image: {IMAGE}
command: [serve]
port: 8000
health_check:
  timeout: 1m
requires:
  platforms: [linux/arm64, linux/amd64]
  memory: 10MB
"""
SETTINGS = {"AIMA_API__MOVE_AFTER": "18s"}
NODES = 2
WHOLE_WITHIN = timedelta(seconds=120)
LISTEN_AGAIN_WITHIN = timedelta(seconds=30)

_SHORT, _LONG = (1.0, 3.0, 6.0), (2.0, 8.0, 25.0)


def shape_of(fleet: Fleet) -> Shape:
    processes = tuple(process.name for process in fleet.processes)
    hosts = tuple(host for process in fleet.processes for host in process.hosts)
    nodes = tuple(f"api-{number}" for number in range(NODES))
    return Shape(
        hosts=hosts,
        prefix="svc-chaos",
        body={},
        image="other-{}:1",
        wishes_per_second=6,
        seconds_between_faults=0.7,
        faults=(
            Fault("kill", processes, _SHORT, weight=4),
            Fault("end", processes, _SHORT, weight=2),
            Fault("freeze", processes, _LONG, weight=3),
            Fault("kill node", nodes, _SHORT, weight=2),
            Fault("kill redis", ("redis",), (0.2, 1.0, 4.0)),
            Fault("freeze redis", ("redis",), (0.5, 3.0, 7.0)),
            Fault("cut connections", ("redis",), (0.0,), weight=3),
            Fault("cut one connection", ("redis",), (0.0,), weight=3),
            Fault("lose a doorbell", ("redis",), (0.0,), weight=5),
            Fault("ring again", ("redis",), (0.0,), weight=5),
            Fault("remove a container", hosts, (0.0,), weight=4),
            Fault("crash a container", hosts, (0.0,), weight=3),
            Fault("squat a port", hosts, _LONG, weight=2),
            Fault("engine away", hosts, _LONG, weight=3),
        ),
    )


class FleetStage:
    """A Stage."""

    def __init__(self, fleet: Fleet, apis: Sequence[ApiProcess], server: RedisServer, directory: Path) -> None:
        self.shape = shape_of(fleet)
        self._fleet = fleet
        self._apis = apis
        self._server = server
        self._directory = directory
        self._redis = command_link(server.url)
        self._lives: dict[str, int] = {}

    def nodes(self) -> Sequence[Node]:
        return [Node(api.url) for api in self._apis]

    def redis(self) -> RedisClient:
        return self._redis

    def logs(self) -> str:
        return str(self._directory)

    # Faults -----------------------------------------------------------------------------------------------------

    def do(self, step: Step) -> str:
        faults: Mapping[str, Callable[[Step], str | None]] = {
            "kill": lambda step: self._process(step.target).kill(),
            "end": self._end,
            "freeze": lambda step: self._process(step.target).freeze(),
            "kill node": lambda step: self._api(step.target).kill(),
            "kill redis": lambda _: self._server.kill(),
            "freeze redis": lambda _: self._server.freeze(),
            "cut connections": lambda _: f"{self._server.reset_connections()} of them",
            "cut one connection": self._cut_one,
            "lose a doorbell": self._lose_doorbell,
            "ring again": lambda step: doorbells.ring_again(self._redis, step),
            "remove a container": lambda step: self._hit(step, FleetProcess.remove),
            "crash a container": lambda step: self._hit(step, FleetProcess.crash),
            "squat a port": self._squat,
            "engine away": lambda step: self._to_engine(step, away=True),
        }
        return faults[step.what](step) or ""

    def mend(self, step: Step) -> None:
        mends: Mapping[str, Callable[[Step], object]] = {
            "kill": lambda step: self._process(step.target).begin(),
            "end": lambda step: self._process(step.target).begin(),
            "freeze": lambda step: self._process(step.target).thaw(),
            "kill node": lambda step: self._api(step.target).begin(),
            "kill redis": lambda _: self._server.start(),
            "freeze redis": lambda _: self._server.thaw(),
            "squat a port": self._make_way,
            "engine away": lambda step: self._to_engine(step, away=False),
        }
        mends[step.what](step)

    def make_whole(self) -> None:
        assert eventually(self._server.answers, within=WHOLE_WITHIN)
        for process in self._fleet.processes:
            assert process.up, f"{process.name} ended by itself:\n{process.log()[-5000:]}"
        self._fleet.until_ready()
        for host in self.shape.hosts:
            self._fleet.process_of(host).container_engine_is(host, away=False)
        hosts = set(self.shape.hosts)
        assert eventually(lambda: at_rest.live(self) == hosts, within=WHOLE_WITHIN), hosts - at_rest.live(self)
        assert eventually(lambda: all(api.answers() for api in self._apis), within=WHOLE_WITHIN)

    def containers(self) -> Mapping[str, Sequence[Found]]:
        told = {host: each for process in self._fleet.processes for host, each in process.containers().items()}
        return {host: [Found(*each) for each in found] for host, found in told.items()}

    def held(self) -> Mapping[str, Held]:
        of_hosts = {f"{each.name}, process {each.pid}": Held(**each.holds()) for each in self._fleet.processes}
        nodes = {f"API node, process {api.pid}": psutil.Process(api.pid) for api in self._apis}
        return of_hosts | {name: Held([""] * each.num_threads(), each.num_fds()) for name, each in nodes.items()}

    def _end(self, step: Step) -> str:
        process = self._process(step.target)
        try:
            process.terminate()
        except subprocess.TimeoutExpired:
            return "and it did not end"
        return f"exit code {process.ended_by}"

    def _cut_one(self, step: Step) -> str:
        with self._server.client() as client:
            client_s = sorted(client.client_list(), key=lambda each: int(each["id"]))
            one = step.one_of(client_s)
            client.client_kill_filter(_id=one["id"])
        return f"{one['name'] or one['addr']}, which last said {one['cmd']}"

    def _lose_doorbell(self, step: Step) -> str:
        with self._server.client() as client:
            return doorbells.lose_one(client, step)

    def _hit(self, step: Step, how: Callable[[FleetProcess, str, str], None]) -> str:
        process = self._answering(step.target)
        running = process.running()[step.target] if process else []
        if process is None or not running:
            return "none was there"
        name = str(step.one_of(running))
        try:
            how(process, step.target, name)
        except Cannot as cannot:
            return f"could not be done: {cannot}"
        return name

    def _squat(self, step: Step) -> str:
        if process := self._answering(step.target):
            process.squat(step.target, self._port(step))
        return f"{self._port(step)}{'' if process else ', not: it is felled'}"

    def _make_way(self, step: Step) -> None:
        if process := self._answering(step.target):
            process.make_way(step.target, self._port(step))

    def _to_engine(self, step: Step, *, away: bool) -> str:
        process = self._answering(step.target)
        if process:
            process.container_engine_is(step.target, away=away)
        return "" if process else "not: it is felled"

    def _port(self, step: Step) -> int:
        return 20_000 + int(step.pick * 8)

    def _process(self, name: str) -> FleetProcess:
        return next(process for process in self._fleet.processes if process.name == name)

    def _api(self, name: str) -> ApiProcess:
        return self._apis[int(name.removeprefix("api-"))]

    def _answering(self, host: str) -> FleetProcess | None:
        process = self._fleet.process_of(host)
        stands = process.up and psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        return process if process.up and not stands else None


@contextmanager
def sure_redis(directory: Path) -> Iterator[RedisServer]:
    """One that has put down whatever it said it had: it may be killed, and no more is lost than its connections."""
    program = redis_program()
    assert program is not None, "there is no Redis server"
    (directory / "redis").mkdir(parents=True, exist_ok=True)
    server = RedisServer(program, directory / "redis", appendfsync="always")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def fleet_stage(server: RedisServer, directory: Path) -> Iterator[FleetStage]:
    write(directory / "catalog/engines/chaos/chaos-cpu.yaml", ENGINE)
    apis = [
        ApiProcess(server.url, directory, catalog=directory / "catalog", name=f"api-{number}", **SETTINGS)
        for number in range(NODES)
    ]
    with fleet_on(server.url, directory, kept=True) as fleet:
        try:
            for api in apis:
                api.begin()
            number = 0
            for share in SHARES:
                hosts = [
                    FakeHost(
                        f"fake-{number + at:02d}",
                        slots=SLOTS,
                        images=(),
                        engines=(IMAGE,),
                        pull_pace=timedelta(milliseconds=50),
                    )
                    for at in range(share)
                ]
                number += share
                fleet.add(hosts)
            fleet.until_ready()
            stage = FleetStage(fleet, apis, server, directory)
            stage.make_whole()
            yield stage
            stage.redis().close()
        finally:
            server.thaw()
            for api in apis:
                api.kill()
                api.client.close()
