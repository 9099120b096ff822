"""A model onto three hosts in network namespaces, against one download by curl: over a slow uplink, and on the LAN.

Hosts have 1 Gbit/s in each direction, the uplink 200 Mbit/s; the kernel counts its bytes. The files are in memory, and
all hosts share this machine's cores, which limit the copies on the LAN. A host's CPU is that of its fetch, and of its
data plane while the others fetch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from lab.cell import Cell, cell
from lab.model_origin import ModelOrigin, model_origin
from lab.network import Link, Network, network
from lab.parts import eventually
from lab.program import Program
from lab.random_files import random_bytes
from lab.running import ROOT
from lab.servers import SharedRedis
from pydantic import SecretStr

from aima_api.controllers.certification import HostCertifier
from aima_core.domain.ids import ModelId
from aima_core.domain.models import Manifest, ManifestFile
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.store.hosts import HostStore
from aima_core.trust.keys import SigningKey
from bench.comparison import Bounded, Comparison, RatioAtMost, Result, size

ROUNDS = 1
NEEDS = ("redis",)
MIB = 1 << 20
PATIENCE = 300
"""Seconds of one fetch."""
KEY = "the seed of the bench's own signing key"
FILES = 4
RECEIVERS = ["h1", "h2", "h3"]
SEED = "h4"
LAN, UPLINK = "1gbit", "200mbit"
SHAPE = "root tbf rate {} burst 1mb latency 100ms"


class Site(NamedTuple):
    inside: Cell
    net: Network
    redis: TextRedis
    origin: ModelOrigin
    links: Mapping[str, Link]
    directory: Path


def measure(rounds: int) -> list[Result]:
    over_uplink, one, crossed, received, served = [], [], [], [], []
    copied, one_copy = [], []
    with TemporaryDirectory(prefix="aima-bench-", dir="/dev/shm") as directory, _site(Path(directory)) as site:
        for number in range(rounds):
            lan = _published(site, f"lan-{number}", size(600) * MIB)
            _fetch(site, lan, SEED)
            one_copy.append(_copy_by_curl(site, lan))
            copied.append(_fetch(site, lan, *RECEIVERS).seconds)
            wan = _published(site, f"wan-{number}", size(400) * MIB)
            with _slow_uplink(site):
                one.append(_download_by_curl(site, wan))
                before = _sent_over_uplink(site)
                found = _fetch(site, wan, *RECEIVERS)
                crossed.append((_sent_over_uplink(site) - before) / wan.size)
            over_uplink.append(found.seconds)
            received.append(found.cpu / 3 / (wan.size / 1e9))
            served.append(found.served / (found.from_hosts / 1e9))
    return [
        Comparison("3 hosts over the uplink, against one curl", over_uplink, one, RatioAtMost(1.15)),
        Bounded("3 hosts: bytes over the uplink ÷ size", crossed, "", 1.02),
        Comparison("3 hosts from a fourth, against one curl", copied, one_copy, RatioAtMost(1.3)),
        Bounded("CPU to receive and verify", received, "s/GB", 5),
        Bounded("CPU to send", served, "s/GB", 0.5),
    ]


class _Fetched(NamedTuple):
    seconds: float
    """Until the last host was ready."""
    cpu: float
    served: float
    from_hosts: int


def _fetch(site: Site, manifest: Manifest, *hosts: str) -> _Fetched:
    file = site.directory / f"{manifest.model}.json"
    file.write_text(manifest.model_dump_json())
    began = time.monotonic()
    for host in hosts:
        site.redis.rpush(f"bench:{host}", str(file))
    answers: list[dict[str, Any]] = []
    while len(answers) < len(hosts):
        answer = site.redis.blpop("bench:done", PATIENCE - 10)
        assert answer is not None, "a fetch does not end"
        answers.append(json.loads(answer[1]))
    seconds = time.monotonic() - began
    sums = [sum(each[name] for each in answers) for name in ("cpu", "served", "from_hosts")]
    return _Fetched(seconds, sums[0], sums[1], int(sums[2]))


def _download_by_curl(site: Site, manifest: Manifest) -> float:
    urls = [word for file in manifest.files for word in ("-o", "/dev/null", manifest.url_of(file))]
    return _timed(site, "h1", "curl", "-sf", *urls)


def _copy_by_curl(site: Site, manifest: Manifest) -> float:
    """From a file server on the seed."""
    place = site.directory / f"{SEED}/store/{manifest.model}/{manifest.name}/files"
    address = site.links[SEED].address
    words = site.links[SEED].inside(sys.executable, "-m", "http.server", "9000", "--directory", str(place))
    server = Program(site.inside, *words, log=site.directory / "files.log")
    server.start()
    try:
        assert eventually(lambda: _answers(site, f"http://{address}:9000/"), within=timedelta(seconds=20))
        target = site.directory / "copy"
        urls = [word for each in manifest.files for word in ("-o", str(target), f"http://{address}:9000/{each.path}")]
        return _timed(site, "h1", "curl", "-sf", *urls)
    finally:
        server.kill()


def _answers(site: Site, url: str) -> bool:
    words = site.links["h1"].inside("curl", "-sf", "-o", "/dev/null", url)
    return site.inside.run(*words, log=site.directory / "curl.log").wait() == 0


def _timed(site: Site, host: str, *command: str) -> float:
    began = time.monotonic()
    assert site.inside.run(*site.links[host].inside(*command), log=site.directory / "curl.log").wait() == 0
    return time.monotonic() - began


def _published(site: Site, name: str, total: int) -> Manifest:
    content = {f"part-{at}": random_bytes(total // FILES, total + at) for at in range(FILES)}
    site.origin.publish(f"maker/{name}", content)
    files = tuple(
        ManifestFile(path=path, size=len(text), sha256=sha256(text).hexdigest()) for path, text in content.items()
    )
    source, revision = f"hf:maker/{name}@main", site.origin.repositories[f"maker/{name}"].commit
    return Manifest(model=ModelId(name), source=source, revision=revision, endpoint=site.origin.url, files=files)


def _cable(site: Site) -> str:
    return f"aimalab{site.net.subnet.split('.')[2]}"


@contextmanager
def _slow_uplink(site: Site) -> Iterator[None]:
    subprocess.run(["tc", "qdisc", "add", "dev", _cable(site), *SHAPE.format(UPLINK).split()], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", _cable(site), "root"], check=True)


def _sent_over_uplink(site: Site) -> int:
    return int(Path(f"/sys/class/net/{_cable(site)}/statistics/tx_bytes").read_text())


@contextmanager
def _site(directory: Path) -> Iterator[Site]:
    with cell() as inside, network(inside) as net:
        server = SharedRedis(inside, net.servers, home=Path("/run/redis"), log=directory / "redis.log")
        server.start()
        origin_address = net.subnet.replace(".0/24", ".254")
        with (
            model_origin(origin_address) as origin,
            closing(command_link(server.url, answers_within=timedelta(seconds=PATIENCE))) as redis,
        ):
            links = {name: net.connect(name) for name in [*RECEIVERS, SEED]}
            site = Site(inside, net, redis, origin, links, directory)
            programs = [_host(site, name, server.url) for name in links]
            try:
                for program in programs:
                    program.start()
                for _ in programs:
                    assert redis.blpop("bench:ready", 60), "a host does not start"
                hosts = HostStore(redis)
                HostCertifier(hosts, SigningKey(SecretStr(KEY))).certify(hosts.all())
                yield site
                for name in links:
                    redis.rpush(f"bench:{name}", "end")
            finally:
                for program in programs:
                    program.kill()


def _host(site: Site, name: str, redis: str) -> Program:
    link = site.links[name]
    for words in (f"tc -n {name} qdisc add dev eth0", f"tc qdisc add dev {name}"):
        site.inside.do(*words.split(), *SHAPE.format(LAN).split())
    place = site.directory / name
    place.mkdir()
    settings = {
        "state_dir": str(place / "state"),
        "signing_key": KEY,
        "redis": {"url": redis},
        "host": {
            "name": name,
            "address": link.address,
            "disk_reserve": "1kB",
            "model_store": str(place / "store"),
        },
    }
    file = place / "host.json"
    file.write_text(json.dumps({"settings": settings}))
    words = link.inside(sys.executable, "-m", "bench.site_host", str(file))
    return Program(site.inside, *words, log=place / "log", environment={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
