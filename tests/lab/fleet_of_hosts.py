"""A lab of several hosts on this machine, with real parts, for multi-host and fault tests.

    with fleet_of_hosts(a_gb10("spark-01"), a_cpu_host("cpu-01"), a_cpu_host("cpu-02"), logs=tmp_path) as fleet:
        fleet.wait_live()
        fleet.take("aima/dial:1")                          # from the shared engine into every host's
        first, second = fleet.nodes                        # two API nodes; each is a `Commands`
        first.aima("service", "start", "svc-tiny-dial", "--host", "cpu-01", "--wait")
        second.record("service", "status", "svc-tiny-dial")        # its output with `-o json`
        urlopen(first.instance("svc-tiny-dial")["endpoint"] + "/health")    # addresses answer the test, too

        host = fleet["cpu-01"]
        host.link.cut(); host.link.mend()
        host.worker.kill(); host.worker.start()            # also stop, freeze, thaw: every part is a `Program`
        host.engine.kill(); host.engine.start(); host.engine.containers()
        fleet.add(a_cpu_host("cpu-03", facts={"memory": "8GB"})); fleet.remove("cpu-03")
        fleet.redis.kill(); fleet.redis.start(); fleet.redis.lose_everything()
        first.kill(); first.start()
        fleet.gateway.start()                              # `fleet.gateway.url` is one endpoint for all engines
        fleet.wait_until(lambda: fleet.states()["cpu-01"] == "away")
        fleet.make_whole(); fleet.clear()                  # undo all faults; stop all services

Every host is a network namespace with a Docker Engine and a worker; Redis, the registry and the API nodes are on
none. Everything is in one cell, with files in memory, and is removed with it, also when the tests are killed.
Create it in a thread that outlives it: the cell ends with the thread that created it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lab.cell import Cell, cell
from lab.cgroups import own_cgroups
from lab.engine import LOADS_WITHIN
from lab.host import HostPlan, LabHost, make_host
from lab.look_alike import archive_of
from lab.network import Network, network
from lab.parts import eventually
from lab.program import Program
from lab.running import ROOT
from lab.servers import ApiNode, SharedGateway, SharedRedis, SharedRegistry
from pydantic import SecretStr

from aima_core.trust.keys import SigningKey

SIGNING_KEY = "the seed of the lab's own signing key"
FIRST_API_PORT = 7081
SETTLES_WITHIN = timedelta(seconds=120)
"""Also after the start of cold interpreters on a busy machine."""
_CATALOG = Path("/run/catalog")
_AT_ONCE = 8


class FleetOfHosts:
    """The lab of this module's example."""

    def __init__(
        self,
        inside: Cell,
        net: Network,
        plans: Sequence[HostPlan],
        *,
        logs: Path,
        nodes: int,
        api: Mapping[str, str],
        **engine: str,
    ) -> None:
        self.inside = inside
        self.logs = logs
        """The log of each part: `<host>-worker.log`, `<host>-engine.log`, `api-1.log`, `redis.log`, …"""
        self.redis = SharedRedis(inside, net.servers, home=Path("/run/redis"), log=logs / "redis.log")
        self.registry = SharedRegistry(inside, net.servers, home=Path("/run/registry"), log=logs / "registry.log")
        self._catalog = inside.outside(_CATALOG)
        (self._catalog / "engines").mkdir(parents=True)
        reported = {"AIMA_CONFIG": os.devnull, "AIMA_REDIS__URL": self.redis.url, "AIMA_SIGNING_KEY": SIGNING_KEY}
        self.nodes = [
            ApiNode(
                inside,
                net.servers,
                port=FIRST_API_PORT + number,
                log=logs / f"api-{number + 1}.log",
                settings={**reported, "AIMA_API__CATALOG": str(_CATALOG), **api},
            )
            for number in range(nodes)
        ]
        public_only = {name: value for name, value in reported.items() if name != "AIMA_SIGNING_KEY"}
        nodes_of_gateway = {
            "AIMA_TRUSTED_KEYS": json.dumps([SigningKey(SecretStr(SIGNING_KEY)).public]),
            "AIMA_GATEWAY__API": json.dumps([node.url for node in self.nodes]),
        }
        self.gateway = SharedGateway(
            inside, net.servers, log=logs / "gateway.log", settings={**public_only, **nodes_of_gateway}
        )
        """Started by tests that need it."""
        options = {"insecure_registry": net.subnet, **engine}
        self._make = partial(make_host, inside, net, logs=logs, worker=reported, **options)
        self.hosts = [self._make(plan) for plan in plans]

    def __getitem__(self, name: str) -> LabHost:
        return next(host for host in self.hosts if host.name == name)

    def start(self, *, images: Sequence[str] = ()) -> None:
        """Start everything, concurrently where possible; with these images of the shared engine on every host."""
        self._all_start(self.redis, self.registry, *(host.engine for host in self.hosts))
        for image in images:
            self.take(image)  # before the workers, which announce what they find
        self._all_start(*self.nodes, *(host.worker for host in self.hosts))

    def node(self) -> ApiNode:
        """A live node."""
        return next(node for node in self.nodes if node.alive)

    def clear(self) -> None:
        """Stops and removes every service. Raises AssertionError if a container is left."""
        self.node().clear()
        left = {host.name: host.engine.containers() for host in self.hosts}
        assert not any(left.values()), f"containers are left: {left}"

    # Hosts ------------------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """`live` or `away`, by name, as an API node reports it; hosts that never announced themselves are missing."""
        reported = self.node().get("/v1/hosts")["items"]
        return {host["name"]: "live" if host["live"] else "away" for host in reported}

    def wait_live(self, *names: str, within: timedelta = SETTLES_WITHIN) -> None:
        """Waits until these hosts, or all, are live."""
        wanted = dict.fromkeys(names or [host.name for host in self.hosts], "live")
        self.wait_until(lambda: wanted.items() <= self.states().items(), within=within)

    def wait_until(self, fact: Callable[[], bool], *, within: timedelta = SETTLES_WITHIN) -> None:
        """Raises AssertionError, with the hosts' states, after the timeout."""

        def asked() -> bool:
            try:
                return fact()
            except OSError:  # a node or a host is down
                return False

        assert eventually(asked, within=within), f"it did not come true in {within}; {self._told()}"

    def make_whole(self) -> None:
        """Undoes every fault and waits until every host is live."""
        for program in (self.redis, self.registry, *self.nodes):
            program.thaw()
        self._all_start(self.redis, self.registry)
        self._at_once([host.make_whole for host in self.hosts])
        self._all_start(*self.nodes)
        self.wait_live()

    def add(self, plan: HostPlan) -> LabHost:
        """Add a host, with its engine and its worker started."""
        host = self.set_up(plan)
        host.make_whole()
        return host

    def set_up(self, plan: HostPlan) -> LabHost:
        """Add a host, with nothing started."""
        host = self._make(plan)
        self.hosts.append(host)
        return host

    def remove(self, name: str) -> None:
        """Kills a host for good. Its records stay; it is offline."""
        host = self[name]
        self.hosts.remove(host)
        host.worker.kill()
        host.engine.stop()

    # Images and engines -----------------------------------------------------------------------------------------

    def take(self, image: str, *names: str) -> None:
        """Load an image of the shared engine into these hosts' engines, or all, for the host's architecture."""
        hosts = [self[name] for name in names] or self.hosts
        archives = {arch: archive_of(image, arch=arch) for arch in {host.plan.arch for host in hosts}}
        self._at_once([partial(host.engine.load, archives[host.plan.arch]) for host in hosts])

    def publish(self, image: str, *, name: str, arch: str | None = None) -> str:
        """Pushes an image of the shared engine to the registry as `name`; returns its reference on any host."""
        reference = f"{self.registry.address}/{name}"
        engine = next(host.engine for host in self.hosts if host.engine.answers())
        engine.load(archive_of(image, name=reference, arch=arch))
        with engine.client(within=LOADS_WITHIN) as client:
            said = client.images.push(reference)
            client.images.remove(reference)
        assert '"error"' not in said, said
        return reference

    def offer(self, engine: str, **changes: Any) -> None:
        """Change the catalog's entry of an engine, such as its `image`; the live API nodes read it again.

        None removes a field. With another `name` and `type` an engine is added.
        """
        self.offer_all((engine, changes))

    def offer_all(self, *changed: tuple[str, Mapping[str, Any]]) -> None:
        """The same for several engines."""
        for engine, changes in changed:
            file = next((ROOT / "catalog/engines").rglob(f"{engine}.yaml"))
            merged = {**yaml.safe_load(file.read_text()), **changes}
            entry = {name: value for name, value in merged.items() if value is not None}
            if "image" in changes and "pull" not in changes:
                entry["pull"] = "never" if entry["image"].startswith("aima/") else "missing"
            overlay = self._catalog / f"engines/{entry['type']}/{entry['name']}.yaml"
            overlay.parent.mkdir(parents=True, exist_ok=True)
            overlay.write_text(yaml.safe_dump(entry))
        for node in (node for node in self.nodes if node.alive):
            mistakes = node.post("/v1/catalog:reload", {})["mistakes"]
            assert not mistakes, mistakes

    def _all_start(self, *programs: Program) -> None:
        self._at_once([program.start for program in programs])

    def _at_once(self, steps: Sequence[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(step) for step in steps]:
                done.result()

    def _told(self) -> str:
        try:
            return f"the hosts are {self.states()}; see {self.logs}"
        except (OSError, StopIteration) as away:
            return f"no API node answers ({away!r}); see {self.logs}"


@contextmanager
def fleet_of_hosts(
    *plans: HostPlan,
    logs: Path,
    nodes: int = 2,
    api: Mapping[str, str] | None = None,
    images: Sequence[str] = (),
    **engine: str,
) -> Iterator[FleetOfHosts]:
    """These hosts and `nodes` API nodes, all started; `engine` are options of dockerd (`live_restore="true"`),
    `api` more of the nodes' `AIMA_…`, and `images` those of the shared engine that every host has.

    Skips the test if this process cannot create a cell. Hosts become live later: `wait_live`.
    """
    with own_cgroups() as group, cell() as inside, network(inside) as net:
        fleet = FleetOfHosts(inside, net, plans, logs=logs, nodes=nodes, api=api or {}, cgroup_parent=group, **engine)
        fleet.start(images=images)
        yield fleet
