"""The stage of real hosts: network namespaces with real Docker Engines, two API nodes, one Redis with its log."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from chaos import at_rest
from chaos.client import Node
from chaos.plan import Fault, Step
from chaos.stage import AT_ONCE, SHORT, Act, Found, Held, Stage, freeze, kill, redis_acts
from docker.errors import APIError, DockerException
from docker.models.containers import Container
from lab.cell import Cell
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import a_cpu_host
from lab.program import Program
from lab.servers import API_KEY

from aima_core.redis.connection import command_link

INSTALLATION = "aima"
HOSTS = 3
IMAGE = "aima/dial:1"
FIRST_PORT = 20_000
SQUATTED = 8
"""The number of ports, from the first, that may be occupied by a foreign program."""
ENDS_WITHIN = timedelta(seconds=15)
WHOLE_WITHIN = timedelta(seconds=90)
LONG = (3.0, 8.0, 28.0)
_SQUATTER = "import socket, time; s = socket.create_server(('', {port})); time.sleep(1000)"


class LabStage(Stage):
    def __init__(self, fleet: FleetOfHosts, inside: Cell) -> None:
        self._fleet = fleet
        self._cell = inside
        self._squatters: dict[float, subprocess.Popen[bytes]] = {}
        hosts = tuple(host.name for host in fleet.hosts)
        nodes = tuple(f"api-{number}" for number in range(len(fleet.nodes)))
        redis = command_link(fleet.redis.url)
        acts = [
            kill("kill worker", hosts, self._worker, weight=4),
            self._stopping("end worker", hosts, self._worker, weight=2),
            freeze("freeze worker", hosts, self._worker, lasts=LONG, weight=2),
            kill("kill engine", hosts, lambda host: fleet[host].engine, weight=3),
            Act(Fault("cut link", hosts, LONG, 3), self._cut_link, lambda step: fleet[step.target].link.mend()),
            kill("kill node", nodes, self._node, weight=2),
            self._stopping("end node", nodes, self._node),
            *redis_acts(fleet.redis, redis, cuts=2, lost_messages=3),
            Act(Fault("remove a container", hosts, AT_ONCE, 3), lambda step: self._hit(step, _remove)),
            Act(Fault("kill a container", hosts, AT_ONCE, 2), lambda step: self._hit(step, _kill)),
            Act(Fault("squat a port", hosts, LONG, 2), self._squat, lambda step: self._release(step.at)),
        ]
        super().__init__(
            redis,
            acts,
            hosts=hosts,
            prefix="svc-tiny-dial",
            body={"model": "Dial"},
            image=f"{fleet.registry.address}/other:{{}}",
            requests_per_second=1.5,
            seconds_between_faults=2.0,
        )

    def nodes(self) -> Sequence[Node]:
        return [Node(node.url, {"authorization": f"Bearer {API_KEY}"}) for node in self._fleet.nodes]

    def logs(self) -> str:
        return str(self._fleet.logs)

    def make_whole(self) -> None:
        for begun_at in list(self._squatters):
            self._release(begun_at)
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

    # Faults -----------------------------------------------------------------------------------------------------

    def _stopping(self, what: str, targets: tuple[str, ...], program: Callable[[str], Program], weight: int = 1) -> Act:
        return Act(
            Fault(what, targets, SHORT, weight),
            lambda step: _stop(program(step.target)),
            lambda step: program(step.target).start(),
        )

    def _cut_link(self, step: Step) -> None:
        self._fleet[step.target].link.cut()

    def _hit(self, step: Step, how: Callable[[Container], None]) -> str:
        try:
            with self._fleet[step.target].engine.client() as client:
                running = sorted(client.containers.list(ignore_removed=True), key=lambda each: str(each.name))
                if not running:
                    return "none was there"
                one = step.one_of(running)
                how(one)
                return str(one.name)
        except (APIError, DockerException) as gone:
            return f"could not be done: {gone}"

    def _squat(self, step: Step) -> str:
        port = FIRST_PORT + int(step.pick * SQUATTED)
        command = self._fleet[step.target].link.inside("python3", "-c", _SQUATTER.format(port=port))
        self._squatters[step.at] = self._cell.run(*command)
        return str(port)

    def _release(self, begun_at: float) -> None:
        squatter = self._squatters.pop(begun_at)
        for process in psutil.Process(squatter.pid).children(recursive=True):
            process.kill()
        squatter.wait()

    def _worker(self, host: str) -> Program:
        return self._fleet[host].worker

    def _node(self, name: str) -> Program:
        return self._fleet.nodes[int(name.removeprefix("api-"))]


@contextmanager
def lab_stage(logs: Path) -> Iterator[LabStage]:
    """The engine's image on every host, and other images in the registry."""
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


def _stop(program: Program) -> str:
    try:
        return f"exit code {program.stop(within=ENDS_WITHIN)}"
    except subprocess.TimeoutExpired:
        program.kill()
        return "and it did not end"


def _remove(container: Container) -> None:
    container.remove(force=True)


def _kill(container: Container) -> None:
    container.kill()


def _found(listed: Mapping[str, object]) -> Found:
    names, ports = listed["Names"], listed["Ports"]
    assert isinstance(names, list) and isinstance(ports, list)
    published = [int(each["PublicPort"]) for each in ports if "PublicPort" in each]
    return Found(str(names[0])[1:], str(listed["State"]), published[0] if published else 0)


def _held(name: str, program: Program) -> tuple[str, Held]:
    process = program.process
    return f"{name}, process {process.pid}", Held([""] * process.num_threads(), process.num_fds())
