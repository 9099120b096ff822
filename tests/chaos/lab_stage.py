"""The stage of real hosts: network namespaces with real Docker Engines, two API nodes, one Redis with its log."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from chaos import at_rest, doorbells
from chaos.asking import Node
from chaos.plan import Fault, Shape, Step
from chaos.stage import Found, Held
from docker.errors import APIError, DockerException
from lab.cell import Cell
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import a_cpu_host
from lab.program import Program
from lab.servers import API_KEY

from aima_core.redis.connection import RedisClient, command_link

INSTALLATION = "aima"
HOSTS = 3
IMAGE = "aima/dial:1"
FIRST_PORT = 20_000
SQUATTED = 8
"""Ports from the first on that may be squatted."""
ENDS_WITHIN = timedelta(seconds=15)
WHOLE_WITHIN = timedelta(seconds=90)
_SHORT, _LONG = (1.0, 3.0, 6.0), (3.0, 8.0, 28.0)
_SQUATTER = "import socket, time; s = socket.create_server(('', {port})); time.sleep(1000)"


def shape_of(fleet: FleetOfHosts) -> Shape:
    hosts = tuple(host.name for host in fleet.hosts)
    nodes = tuple(f"api-{number}" for number in range(len(fleet.nodes)))
    return Shape(
        hosts=hosts,
        prefix="svc-tiny-dial",
        body={"model": "Dial"},
        image=f"{fleet.registry.address}/other:{{}}",
        wishes_per_second=1.5,
        seconds_between_faults=2.0,
        faults=(
            Fault("kill worker", hosts, _SHORT, weight=4),
            Fault("end worker", hosts, _SHORT, weight=2),
            Fault("freeze worker", hosts, _LONG, weight=2),
            Fault("kill engine", hosts, _SHORT, weight=3),
            Fault("cut link", hosts, _LONG, weight=3),
            Fault("kill node", nodes, _SHORT, weight=2),
            Fault("end node", nodes, _SHORT),
            Fault("kill redis", ("redis",), (0.2, 1.0, 4.0)),
            Fault("freeze redis", ("redis",), (0.5, 3.0, 7.0)),
            Fault("cut connections", ("redis",), (0.0,), weight=2),
            Fault("lose a doorbell", ("redis",), (0.0,), weight=3),
            Fault("ring again", ("redis",), (0.0,), weight=3),
            Fault("remove a container", hosts, (0.0,), weight=3),
            Fault("kill a container", hosts, (0.0,), weight=2),
            Fault("squat a port", hosts, _LONG, weight=2),
        ),
    )


class LabStage:
    """A Stage."""

    def __init__(self, fleet: FleetOfHosts, inside: Cell) -> None:
        self.shape = shape_of(fleet)
        self._fleet = fleet
        self._cell = inside
        self._redis = command_link(fleet.redis.url)
        self._squatters: dict[float, subprocess.Popen[bytes]] = {}

    def nodes(self) -> Sequence[Node]:
        return [Node(node.url, {"authorization": f"Bearer {API_KEY}"}) for node in self._fleet.nodes]

    def redis(self) -> RedisClient:
        return self._redis

    def logs(self) -> str:
        return str(self._fleet.logs)

    def do(self, step: Step) -> str:
        faults: Mapping[str, Callable[[Step], str | None]] = {
            "kill worker": lambda step: self._fleet[step.target].worker.kill(),
            "end worker": lambda step: self._end(self._fleet[step.target].worker),
            "freeze worker": lambda step: self._fleet[step.target].worker.freeze(),
            "kill engine": lambda step: self._fleet[step.target].engine.kill(),
            "cut link": lambda step: self._fleet[step.target].link.cut(),
            "kill node": lambda step: self._node(step).kill(),
            "end node": lambda step: self._end(self._node(step)),
            "kill redis": lambda _: self._fleet.redis.kill(),
            "freeze redis": lambda _: self._fleet.redis.freeze(),
            "cut connections": lambda _: f"{self._redis.client_kill_filter(_type='normal', skipme=True)} of them",
            "lose a doorbell": lambda step: doorbells.lose_one(self._redis, step),
            "ring again": lambda step: doorbells.ring_again(self._redis, step),
            "remove a container": lambda step: self._hit(step, how="remove"),
            "kill a container": lambda step: self._hit(step, how="kill"),
            "squat a port": self._squat,
        }
        return faults[step.what](step) or ""

    def mend(self, step: Step) -> None:
        mends: Mapping[str, Callable[[Step], object]] = {
            "kill worker": lambda step: self._fleet[step.target].worker.start(),
            "end worker": lambda step: self._fleet[step.target].worker.start(),
            "freeze worker": lambda step: self._fleet[step.target].worker.thaw(),
            "kill engine": lambda step: self._fleet[step.target].engine.start(),
            "cut link": lambda step: self._fleet[step.target].link.mend(),
            "kill node": lambda step: self._node(step).start(),
            "end node": lambda step: self._node(step).start(),
            "kill redis": lambda _: self._fleet.redis.start(),
            "freeze redis": lambda _: self._fleet.redis.thaw(),
            "squat a port": lambda step: self._make_way(step.at),
        }
        mends[step.what](step)

    def make_whole(self) -> None:
        for begun_at in list(self._squatters):
            self._make_way(begun_at)
        self._fleet.make_whole()
        hosts = set(self.shape.hosts)
        self._fleet.wait_until(lambda: at_rest.live(self) == hosts, within=WHOLE_WITHIN)

    def containers(self) -> Mapping[str, Sequence[Found]]:
        found = {}
        for host in self._fleet.hosts:
            with host.engine.client() as client:
                label = f"aima.installation={INSTALLATION}"
                listed = client.api.containers(all=True, filters={"label": label})
            found[host.name] = [_found(each) for each in listed]
        return found

    def held(self) -> Mapping[str, Held]:
        programs: dict[str, Program] = {f"worker of {host.name}": host.worker for host in self._fleet.hosts}
        programs |= {f"API node {node.url}": node for node in self._fleet.nodes}
        return dict(_held(name, program) for name, program in programs.items())

    def _end(self, program: Program) -> str:
        try:
            return f"exit code {program.stop(within=ENDS_WITHIN)}"
        except subprocess.TimeoutExpired:
            program.kill()
            return "and it did not end"

    def _hit(self, step: Step, *, how: str) -> str:
        try:
            with self._fleet[step.target].engine.client() as client:
                running = sorted(client.containers.list(ignore_removed=True), key=lambda each: str(each.name))
                if not running:
                    return "none was there"
                one = step.one_of(running)
                if how == "remove":
                    one.remove(force=True)
                else:
                    one.kill()
                return str(one.name)
        except (APIError, DockerException) as gone:
            return f"could not be done: {gone}"

    def _squat(self, step: Step) -> str:
        port = FIRST_PORT + int(step.pick * SQUATTED)
        command = self._fleet[step.target].link.inside("python3", "-c", _SQUATTER.format(port=port))
        self._squatters[step.at] = self._cell.run(*command)
        return str(port)

    def _make_way(self, begun_at: float) -> None:
        squatter = self._squatters.pop(begun_at)
        for process in psutil.Process(squatter.pid).children(recursive=True):
            process.kill()
        squatter.wait()

    def _node(self, step: Step) -> Program:
        return self._fleet.nodes[int(step.target.removeprefix("api-"))]


@contextmanager
def lab_stage(logs: Path) -> Iterator[LabStage]:
    """With the engine's image on every host, and others in the registry."""
    plans = [a_cpu_host(f"cpu-{number:02d}", AIMA_HOST__SLOTS="2") for number in range(1, HOSTS + 1)]
    api = {"AIMA_API__MOVE_AFTER": "18s"}
    with fleet_of_hosts(*plans, logs=logs, api=api, live_restore="true") as fleet:
        fleet.wait_live()
        fleet.take(IMAGE)
        for number in range(4):
            fleet.publish(IMAGE, name=f"other:{number}")
        stage = LabStage(fleet, fleet.inside)
        yield stage
        stage.redis().close()


def _found(listed: Mapping[str, object]) -> Found:
    names, ports = listed["Names"], listed["Ports"]
    assert isinstance(names, list) and isinstance(ports, list)
    published = [int(each["PublicPort"]) for each in ports if "PublicPort" in each]
    return Found(str(names[0])[1:], str(listed["State"]), published[0] if published else 0)


def _held(name: str, program: Program) -> tuple[str, Held]:
    process = program.process
    return f"{name}, process {process.pid}", Held([""] * process.num_threads(), process.num_fds())
