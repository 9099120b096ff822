"""A model onto three hosts in network namespaces, against curl, rsync and BitTorrent, over an uplink and on the LAN.

Hosts have 1 Gbit/s in each direction, the uplink 200 Mbit/s; the kernel counts its bytes. The files are in memory, and
all hosts share this machine's cores, which limit the copies on the LAN. A host's CPU is that of its fetch, and of its
data plane while the others fetch; its goals are for the LAN, since at a fifth of the rate each system call moves less.
rsync and aria2c are rivals where they are installed.
"""

from __future__ import annotations

import json
import shutil
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
from zlib import crc32

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
from aima_worker.models.layout import FILES, RECORD, StoredModel, place_of
from bench.comparison import Bounded, Comparison, RatioAtMost, Result, size
from bench.copies import Copies

ROUNDS = 1
NEEDS = ("redis",)
MIB = 1 << 20
PATIENCE = 300
"""Seconds of one fetch."""
KEY = "the seed of the bench's own signing key"
PARTS = 4
"""Files of a model."""
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
    here: str
    """The address of this process in the hosts' network."""
    programs: Mapping[str, Program]


class Figures(NamedTuple):
    """One entry for each round; of rivals none where they are not installed."""

    ours_over_uplink: list[float]
    ours_on_lan: list[float]
    curl_over_uplink: list[float]
    curl_on_lan: list[float]
    rsync: list[float]
    rsync_in_turn: list[float]
    torrent_over_uplink: list[float]
    torrent_on_lan: list[float]
    crossed: list[float]
    received: list[float]
    served: list[float]
    received_slowly: list[float]
    served_slowly: list[float]
    verified: list[float]
    sha256sum: list[float]
    again: list[float]


def measure(rounds: int) -> list[Result]:
    of = Figures(*([] for _ in Figures._fields))
    with TemporaryDirectory(prefix="aima-bench-", dir="/dev/shm") as directory, _site(Path(directory)) as site:
        for number in range(rounds):
            _measure_lan(site, of, number)
            _measure_uplink(site, of, number)
            _measure_resumption(site, of, number)
    rivals = [
        Comparison("3 hosts from a fourth, against one rsync", of.ours_on_lan, of.rsync, RatioAtMost(1.3)),
        Comparison("3 hosts from a fourth, against rsync in turn", of.ours_on_lan, of.rsync_in_turn, RatioAtMost(1)),
        Comparison("3 hosts from a fourth, against BitTorrent", of.ours_on_lan, of.torrent_on_lan, RatioAtMost(1)),
        Comparison(
            "3 hosts over the uplink, against BitTorrent", of.ours_over_uplink, of.torrent_over_uplink, RatioAtMost(1)
        ),
    ]
    return [
        Comparison(
            "3 hosts over the uplink, against one curl", of.ours_over_uplink, of.curl_over_uplink, RatioAtMost(1.15)
        ),
        Bounded("3 hosts: bytes over the uplink ÷ size", of.crossed, "", 1.02),
        Comparison("3 hosts from a fourth, against one curl", of.ours_on_lan, of.curl_on_lan, RatioAtMost(1.3)),
        *(each for each in rivals if each.theirs),
        Bounded("CPU to receive and verify, on the LAN", of.received, "s/GB", 5),
        Bounded("CPU to send, on the LAN", of.served, "s/GB", 0.5),
        Bounded("CPU to receive and verify, over the uplink", of.received_slowly, "s/GB"),
        Bounded("CPU to send, over the uplink", of.served_slowly, "s/GB"),
        Comparison("verification, against sha256sum", of.verified, of.sha256sum, RatioAtMost(1.1)),
        Bounded("killed at 90 %: fetched again ÷ size", of.again, "", 0.02),
    ]


def _measure_lan(site: Site, of: Figures, number: int) -> None:
    model = _published(site, f"lan-{number}", size(600) * MIB)
    _fetch(site, model, SEED)
    place, copies = _files(site, SEED, model), _copies(site)
    of.curl_on_lan.append(copies.curl(place, SEED, RECEIVERS[0]))
    if shutil.which("rsync"):
        seconds = copies.rsync(place, SEED, *RECEIVERS)
        of.rsync.append(seconds[0])
        of.rsync_in_turn.append(sum(seconds))
    if shutil.which("aria2c"):
        of.torrent_on_lan.append(copies.bittorrent(place, SEED, *RECEIVERS))
    found = _fetch(site, model, *RECEIVERS)
    of.ours_on_lan.append(found.seconds)
    of.received.append(found.cpu / 3 / (model.size / 1e9))
    of.served.append(found.served / (found.from_hosts / 1e9))
    of.verified.append(_fetch_of_complete_pieces(site, model))
    files = map(str, sorted(place.iterdir()))
    began = time.monotonic()
    subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
    of.sha256sum.append(time.monotonic() - began)


def _measure_uplink(site: Site, of: Figures, number: int) -> None:
    model = _published(site, f"wan-{number}", size(400) * MIB)
    copies = _copies(site)
    with _slow_uplink(site):
        of.curl_over_uplink.append(copies.download(model, RECEIVERS[0]))
        before = _sent_over_uplink(site)
        found = _fetch(site, model, *RECEIVERS)
        of.crossed.append((_sent_over_uplink(site) - before) / model.size)
        if shutil.which("aria2c"):
            of.torrent_over_uplink.append(copies.bittorrent(_files(site, RECEIVERS[0], model), None, *RECEIVERS))
    of.ours_over_uplink.append(found.seconds)
    of.received_slowly.append(found.cpu / 3 / (model.size / 1e9))
    of.served_slowly.append(found.served / (found.from_hosts / 1e9))


def _measure_resumption(site: Site, of: Figures, number: int) -> None:
    """Bytes over the uplink beyond one download, after SIGKILL to a host that has 90 %."""
    model = _published(site, f"killed-{number}", size(400) * MIB)
    host = site.programs[RECEIVERS[0]]
    with _slow_uplink(site):
        before = _sent_over_uplink(site)
        _fetch(site, model, RECEIVERS[1])
        once = _sent_over_uplink(site) - before
        again = _published(site, f"killed-again-{number}", size(400) * MIB)
        before = _sent_over_uplink(site)
        _request(site, again, RECEIVERS[0])
        assert eventually(lambda: _sent_over_uplink(site) - before > 0.9 * once, within=timedelta(seconds=PATIENCE))
        host.kill()
        host.start()
        assert site.redis.blpop("bench:ready", 60), "a host does not start"
        _fetch(site, again, RECEIVERS[0])
        of.again.append((_sent_over_uplink(site) - before - once) / model.size)


def _fetch_of_complete_pieces(site: Site, manifest: Manifest) -> float:
    """Seconds to verify and publish a model whose pieces are all journalled, as by a worker that was killed then."""
    host = RECEIVERS[0]
    store = site.directory / host / "store"
    place = store / manifest.model / manifest.name
    fetching = place_of(store, manifest.model, manifest.name, published=False)
    (place / RECORD).write_text(StoredModel(manifest=manifest).model_dump_json())
    fetching.parent.mkdir(parents=True, exist_ok=True)
    place.rename(fetching)
    return _fetch(site, manifest, host).seconds


def _files(site: Site, host: str, manifest: Manifest) -> Path:
    return site.directory / host / "store" / manifest.model / manifest.name / FILES


def _copies(site: Site) -> Copies:
    return Copies(site.inside, site.links, site.directory, site.here)


class _Fetched(NamedTuple):
    seconds: float
    """Until the last host was ready."""
    cpu: float
    served: float
    from_hosts: int


def _fetch(site: Site, manifest: Manifest, *hosts: str) -> _Fetched:
    began = time.monotonic()
    _request(site, manifest, *hosts)
    answers: list[dict[str, Any]] = []
    while len(answers) < len(hosts):
        answer = site.redis.blpop("bench:done", PATIENCE - 10)
        assert answer is not None, "\n".join(["a fetch does not end", *(site.programs[each].said() for each in hosts)])
        answers.append(json.loads(answer[1]))
    seconds = time.monotonic() - began
    sums = [sum(each[name] for each in answers) for name in ("cpu", "served", "from_hosts")]
    return _Fetched(seconds, sums[0], sums[1], int(sums[2]))


def _request(site: Site, manifest: Manifest, *hosts: str) -> None:
    file = site.directory / f"{manifest.model}.json"
    file.write_text(manifest.model_dump_json())  # before a host reads it
    for host in hosts:
        site.redis.rpush(f"bench:{host}", str(file))


def _published(site: Site, name: str, total: int) -> Manifest:
    content = {f"part-{at}": random_bytes(total // PARTS, crc32(name.encode()) + at) for at in range(PARTS)}
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
            programs: dict[str, Program] = {}
            site = Site(inside, net, redis, origin, links, directory, origin_address, programs)
            try:
                for name in links:
                    programs[name] = _host(site, name, server.url)
                    programs[name].start()
                for _ in programs:
                    assert redis.blpop("bench:ready", 60), "a host does not start"
                hosts = HostStore(redis)
                HostCertifier(hosts, SigningKey(SecretStr(KEY))).certify(hosts.all())
                yield site
                for name in links:
                    redis.rpush(f"bench:{name}", "end")
            finally:
                for program in programs.values():
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
