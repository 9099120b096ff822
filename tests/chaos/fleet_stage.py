"""The stage of fakes: a fleet of hosts in a few processes, two API nodes, and a real Redis."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from api.catalog.entries import write
from chaos import at_rest
from chaos.client import Node
from chaos.plan import Fault, Step
from chaos.stage import AT_ONCE, SHORT, Act, Found, Held, Stage, freeze, kill, redis_acts
from lab.api_process import ApiProcess
from lab.fleet import Cannot, FakeHost, Fleet, FleetProcess, fleet_engine, fleet_on
from lab.parts import eventually
from lab.redis_server import RedisServer, redis_program

from aima_core.redis.connection import command_link

INSTALLATION = "fleet"
SHARES = (1, 1, 1, 1, 3, 3)
"""The hosts of each process: a single host counts as lost, several at once as a partition."""
FEW = (1, 1, 3)
"""Those of a short run, of which a good part is the start of the processes."""
SLOTS = 2
IMAGE = "chaos:1"
ENGINE = fleet_engine("chaos", image=IMAGE)
SETTINGS = {"AIMA_API__MOVE_AFTER": "18s"}
NODES = 2
WHOLE_WITHIN = timedelta(seconds=120)
LISTEN_AGAIN_WITHIN = timedelta(seconds=30)

LONG = (2.0, 8.0, 25.0)


class FleetStage(Stage):
    def __init__(self, fleet: Fleet, apis: Sequence[ApiProcess], server: RedisServer, directory: Path) -> None:
        self._fleet = fleet
        self._apis = apis
        self._server = server
        self._directory = directory
        processes = tuple(process.name for process in fleet.processes)
        hosts = tuple(host for process in fleet.processes for host in process.hosts)
        redis = command_link(server.url)
        acts = [
            kill("kill", processes, self._process, weight=4),
            Act(Fault("end", processes, SHORT, 2), self._stop, lambda step: self._process(step.target).start()),
            freeze("freeze", processes, self._process, lasts=LONG, weight=3),
            Act(Fault("kill node", self._node_names(), SHORT, 2), self._kill_node, self._launch_node),
            *redis_acts(server, redis, cuts=3, single_cuts=3, lost_messages=5),
            Act(Fault("remove a container", hosts, AT_ONCE, 4), lambda step: self._hit(step, FleetProcess.remove)),
            Act(Fault("crash a container", hosts, AT_ONCE, 3), lambda step: self._hit(step, FleetProcess.crash)),
            Act(Fault("squat a port", hosts, LONG, 2), self._squat, self._release),
            Act(Fault("engine away", hosts, LONG, 3), self._take_engine_away, self._bring_engine_back),
        ]
        super().__init__(
            redis,
            acts,
            hosts=hosts,
            prefix="svc-chaos",
            body={},
            image="other-{}:1",
            requests_per_second=6,
            seconds_between_faults=0.7,
        )

    def nodes(self) -> Sequence[Node]:
        return [Node(api.url) for api in self._apis]

    def logs(self) -> str:
        return str(self._directory)

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
        by_host = {host: each for process in self._fleet.processes for host, each in process.containers().items()}
        return {host: [Found(*each) for each in found] for host, found in by_host.items()}

    def held(self) -> Mapping[str, Held]:
        of_hosts = {f"{each.name}, process {each.pid}": Held(**each.holds()) for each in self._fleet.processes}
        nodes = {f"API node, process {api.pid}": psutil.Process(api.pid) for api in self._apis}
        return of_hosts | {name: Held([""] * each.num_threads(), each.num_fds()) for name, each in nodes.items()}

    # Faults -----------------------------------------------------------------------------------------------------

    def _stop(self, step: Step) -> str:
        process = self._process(step.target)
        try:
            process.stop()
        except subprocess.TimeoutExpired:
            return "and it did not end"
        return f"exit code {process.ended_by}"

    def _kill_node(self, step: Step) -> None:
        self._api(step.target).kill()

    def _launch_node(self, step: Step) -> None:
        self._api(step.target).begin()

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
        return f"{self._port(step)}{'' if process else ', not: its process is down'}"

    def _release(self, step: Step) -> None:
        if process := self._answering(step.target):
            process.make_way(step.target, self._port(step))

    def _take_engine_away(self, step: Step) -> str:
        process = self._answering(step.target)
        if process:
            process.container_engine_is(step.target, away=True)
        return "" if process else "not: its process is down"

    def _bring_engine_back(self, step: Step) -> None:
        if process := self._answering(step.target):
            process.container_engine_is(step.target, away=False)

    def _port(self, step: Step) -> int:
        return 20_000 + int(step.pick * 8)

    def _process(self, name: str) -> FleetProcess:
        return next(process for process in self._fleet.processes if process.name == name)

    def _node_names(self) -> tuple[str, ...]:
        return tuple(f"api-{number}" for number in range(len(self._apis)))

    def _api(self, name: str) -> ApiProcess:
        return self._apis[int(name.removeprefix("api-"))]

    def _answering(self, host: str) -> FleetProcess | None:
        process = self._fleet.process_of(host)
        stands = process.up and psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        return process if process.up and not stands else None


@contextmanager
def sure_redis(directory: Path) -> Iterator[RedisServer]:
    """A Redis with every acknowledged write on disk: a crash loses only its connections."""
    program = redis_program()
    assert program is not None, "there is no Redis server"
    (directory / "redis").mkdir(parents=True, exist_ok=True)
    server = RedisServer(program, directory / "redis")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def fleet_stage(server: RedisServer, directory: Path, *, shares: Sequence[int] = SHARES) -> Iterator[FleetStage]:
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
            for share in shares:
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
