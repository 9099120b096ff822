"""A model that is nowhere, on three hosts behind one slow uplink; then on a fourth, when only the LAN is left.

And one that lies in a directory of one host, on another.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hosts.conftest import DIAL_IMAGE
from hosts.requests import ended, ready, reported, start, start_one
from lab.certificates import certificate_in
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import a_cpu_host
from lab.model_origin import Faults, ModelOrigin, model_origin
from lab.random_files import Random, RandomFiles

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(400)]

MIB = 1 << 20
UPLINK = "200mbit"
TOKEN = "hf_of-the-lab"
HOSTS = ["cpu-01", "cpu-02", "cpu-03"]
LATER = "cpu-04"
READY_WITHIN = 120
SECOND = "svc-shelf-second"


def weights(seed: int) -> RandomFiles:
    """Eight pieces and a few small files."""
    return RandomFiles(
        {
            "config.json": b'{"layers": 2}',
            "tokenizer.json": Random(2 * MIB, seed),
            "model-1.safetensors": Random(64 * MIB, seed),
            "model-2.safetensors": Random(60 * MIB, seed),
        }
    )


MODELS = {"First": weights(31), "Second": weights(32)}


@pytest.fixture(scope="module")
def directory_of_models(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def fleet_and_origin(tmp_path_factory, dial_image, directory_of_models) -> Iterator[tuple[FleetOfHosts, ModelOrigin]]:
    logs = tmp_path_factory.mktemp("fleet")
    with fleet_of_hosts(logs=logs, nodes=1) as fleet:
        subnet = fleet.node().url.removeprefix("http://").rpartition(".")[0]
        directory = tmp_path_factory.mktemp("origin")
        tls = certificate_in(directory / "tls", name=f"IP:{subnet}.254")
        (directory / "secrets").mkdir(mode=0o700)
        (directory / "secrets/huggingface").write_text(f"{TOKEN}\n")
        (directory / "secrets/huggingface").chmod(0o600)
        with model_origin(f"{subnet}.254", tls=tls) as origin, slow_uplink(subnet):
            reached = {"HF_ENDPOINT": origin.url, "SSL_CERT_FILE": str(tls.authority)}
            own = {**reached, "AIMA_HOST__SECRETS": str(directory / "secrets"), "AIMA_HOST__DISK_RESERVE": "1MB"}
            own["AIMA_HOST__MODEL_ROOTS"] = json.dumps([str(directory_of_models)])
            with fleet.node().reported(**reached):
                fleet.offer("dial-cpu", name="shelf-cpu", type="shelf", model_mount="/models", image=DIAL_IMAGE)
                for name, files in MODELS.items():
                    origin.publish(f"maker/{name.lower()}", files, gated_for=TOKEN)
                    offer_model(fleet, name)
                fleet.node().post("/v1/catalog:reload", {})
                for name in [*HOSTS, LATER]:
                    add_host(fleet, name, **own)
                fleet.wait_live()
                yield fleet, origin
                fleet.clear()


@pytest.fixture
def fleet(fleet_and_origin) -> FleetOfHosts:
    return fleet_and_origin[0]


@pytest.fixture
def origin(fleet_and_origin) -> ModelOrigin:
    fleet_and_origin[1].sent.clear()
    return fleet_and_origin[1]


def add_host(fleet: FleetOfHosts, name: str, **settings: str) -> None:
    host = fleet.set_up(a_cpu_host(name, **settings))
    host.engine.start()
    fleet.take(DIAL_IMAGE, name)
    host.worker.start()


def offer_model(fleet: FleetOfHosts, name: str) -> None:
    entry = {
        "name": name,
        "type": "test",
        "size": "130MB",
        "engines": ["shelf-cpu"],
        "source": f"hf:maker/{name.lower()}@main",
        "token": "huggingface",
    }
    file = fleet._catalog / f"models/test/{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(entry))


@contextmanager
def slow_uplink(subnet: str) -> Iterator[None]:
    """All that this process sends to the hosts, such as the origin's bodies, crosses it."""
    cable = f"aimalab{subnet.split('.')[2]}"
    shape = f"tc qdisc add dev {cable} root tbf rate {UPLINK} burst 256kb latency 400ms"
    subprocess.run(shape.split(), check=True)
    yield


def files_of(fleet: FleetOfHosts, host: str, model: str) -> dict[str, bytes]:
    [place] = (fleet[host].state.with_name("state-models") / model).glob("*/files")
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def size(model: str) -> int:
    return MODELS[model].size


def test_a_service_starts_on_three_hosts_with_one_download_over_the_uplink(fleet, origin):
    """Of a gated repository, from an origin that breaks off."""
    origin.faults["model-1.safetensors"] = Faults(cut_after=5 * MIB, times=3)
    words = [word for host in HOSTS for word in ("--host", host)]

    said = fleet.node().here("service", "start", "svc-shelf-first", *words, "--wait")

    assert said.returncode == 0, said.stdout + said.stderr
    assert origin.all_sent <= 1.02 * size("First")
    assert [files_of(fleet, host, "first") for host in HOSTS] == [MODELS["First"]] * 3
    assert "from other hosts" in said.stdout
    assert {mounts_of(fleet, host) for host in HOSTS} == {("/models",)}


def mounts_of(fleet: FleetOfHosts, host: str) -> tuple[str, ...]:
    with fleet[host].engine.client() as client:
        [container] = client.containers.list()
        return tuple(each["Destination"] for each in container.attrs["Mounts"] if each["Destination"] == "/models")


def test_a_fourth_host_needs_the_lan_only(fleet, origin):
    """After the three: it asks the origin for nothing."""
    ready(fleet, *(each["id"] for each in start(fleet, "svc-shelf-first", hosts=[*HOSTS])), within=READY_WITHIN)
    origin.sent.clear()
    origin.requests.clear()

    operation = start_one(fleet, "svc-shelf-first", hosts=[LATER])

    [record] = ready(fleet, operation, within=READY_WITHIN)
    assert files_of(fleet, LATER, "first") == MODELS["First"]
    assert origin.requests.total() == 0
    assert record["fetch"]["from_hosts"] == size("First")


def test_the_death_of_the_busiest_host_costs_no_more_than_it_had(fleet, origin):
    operations = {each["route"].removeprefix("host."): each["id"] for each in start(fleet, SECOND, hosts=HOSTS)}
    fleet.wait_until(lambda: origin.all_sent > size("Second") / 2, within=timedelta(seconds=READY_WITHIN))
    received = {host: (reported(fleet, id)["fetch"] or {}).get("received", 0) for host, id in operations.items()}
    busiest = max(received, key=received.__getitem__)
    fleet[busiest].worker.kill()
    sent = origin.all_sent

    survivors = [id for host, id in operations.items() if host != busiest]
    ready(fleet, *survivors, within=READY_WITHIN)
    fleet[busiest].worker.start()
    [record] = ended(fleet, operations[busiest], within=READY_WITHIN)

    assert record["phase"] == "ready", record
    assert origin.all_sent <= size("Second") + sent
    assert [files_of(fleet, host, "second") for host in HOSTS] == [MODELS["Second"]] * 3


def test_a_model_that_lies_on_one_host_starts_on_another(fleet, origin, directory_of_models):
    """The command is asked for on that host alone: the one that has the directory copies it meanwhile."""
    files = weights(33)
    for name, content in files.items():
        (directory_of_models / "mine").mkdir(exist_ok=True)
        (directory_of_models / "mine" / name).write_bytes(content)
    owner, other = HOSTS[:2]
    source = f"file:{directory_of_models}/mine"
    words = ["--host", owner, "--files", "*", "--name", "Mine", "--engine", "shelf-cpu", "--to", str(fleet._catalog)]

    added = fleet.node().here("model", "add", source, *words)
    fleet.node().post("/v1/catalog:reload", {})
    said = fleet.node().here("service", "start", "svc-shelf-mine", "--host", other, "--wait")

    assert added.returncode == 0, added.stdout + added.stderr
    assert said.returncode == 0, said.stdout + said.stderr
    assert [files_of(fleet, host, "mine") for host in (owner, other)] == [files] * 2
    assert "from other hosts" in said.stdout
    assert origin.all_sent == 0
