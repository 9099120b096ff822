"""The bridge network of an installation on a real Docker Engine: made once, made again, and refused with the reason."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import docker
import pytest
from contract.bench import Bench, Program
from contract.on_docker import DockerBench
from lab.engine import OwnEngine, own_engine
from lab.images import busybox_image

from aima_core.errors import EngineRefused, NoNetwork
from aima_worker.runtimes.docker import network
from aima_worker.runtimes.docker.network import EngineNetwork
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = pytest.mark.docker


@pytest.fixture
def api() -> Iterator[docker.APIClient]:
    with closing(docker.from_env()) as client:
        yield client.api


def in_network(bench: Bench, **changes: object) -> str:
    return bench.runtime.run(bench.spec(Program.COUNTS, network=bench.network, **changes)).id


def networks_of(api: docker.APIClient, bench: Bench) -> list[str]:
    return [each["Name"] for each in api.networks(filters={"label": f"aima.installation={bench.network}"})]


def chain_of(bench: Bench) -> bool:
    listed = subprocess.run(["iptables", "-w", "-S", EngineNetwork(bench.network).chain], capture_output=True)
    return listed.returncode == 0


def test_a_network_is_made_once_without_traffic_between_its_containers(bench: Bench, api: docker.APIClient) -> None:
    containers = [in_network(bench) for _ in range(2)]

    made = api.inspect_network(EngineNetwork(bench.network).name)
    assert networks_of(api, bench) == [f"{bench.network}.engines"]
    assert made["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert made["Containers"].keys() == set(containers)


def test_two_workers_that_start_at_once_make_one_network(api: docker.APIClient) -> None:
    with closing(DockerBench()) as bench, ThreadPoolExecutor(4) as threads:
        specs = [bench.spec(Program.COUNTS, network=bench.network) for _ in range(4)]
        workers = [DockerSdkRuntime(host=f"bench-{number}") for number in range(4)]

        ran = list(threads.map(lambda worker, spec: worker.run(spec), workers, specs))

        assert networks_of(api, bench) == [f"{bench.network}.engines"]
        assert api.inspect_network(f"{bench.network}.engines")["Containers"].keys() == {each.id for each in ran}
        for worker in workers:
            worker.close()


def test_a_network_that_was_removed_is_made_again_before_the_next_start(bench: Bench, api: docker.APIClient) -> None:
    api.remove_container(in_network(bench), force=True)
    api.remove_network(f"{bench.network}.engines")

    container = in_network(bench)

    assert api.inspect_network(f"{bench.network}.engines")["Containers"].keys() == {container}


def test_a_network_removed_between_create_and_start_is_made_again(
    bench: Bench, api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(bench.runtime, DockerSdkRuntime)
    calls = bench.runtime._calls
    start = calls.start

    def start_without_network(container: str) -> None:
        monkeypatch.undo()
        api.remove_network(f"{bench.network}.engines")
        start(container)

    monkeypatch.setattr(calls, "start", start_without_network)

    container = in_network(bench)

    assert [each.id for each in bench.runtime.containers(bench.labels)] == [container]


def test_a_network_of_that_name_that_is_not_aimas_is_refused(bench: Bench, api: docker.APIClient) -> None:
    api.create_network(f"{bench.network}.engines", "bridge")
    try:
        with pytest.raises(NoNetwork, match="exists, and is not AIMA's") as refused:
            in_network(bench)
    finally:
        api.remove_network(f"{bench.network}.engines")

    assert f"docker network rm {bench.network}.engines" in refused.value.failure.hint
    assert bench.runtime.containers(bench.labels) == []


def test_removing_a_network_leaves_nothing_and_is_refused_while_it_is_used(bench: Bench, api: docker.APIClient) -> None:
    assert isinstance(bench.runtime, DockerSdkRuntime)
    container = in_network(bench)
    assert chain_of(bench)

    with pytest.raises(EngineRefused, match="active endpoints"):
        bench.runtime.remove_network(bench.network)
    api.remove_container(container, force=True)
    bench.runtime.remove_network(bench.network)
    bench.runtime.remove_network(bench.network)

    assert networks_of(api, bench) == []
    assert not chain_of(bench)


def test_a_worker_without_the_right_to_write_the_firewall_starts_engines_and_reports_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.runtime.facts().isolates_engines
    denied = tmp_path / "iptables"
    denied.write_text("#!/bin/sh\necho 'Permission denied (you must be root)' >&2; exit 4\n")
    denied.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    in_network(bench)

    assert not bench.runtime.facts().isolates_engines
    monkeypatch.undo()
    assert not chain_of(bench)


def test_the_rule_is_written_again_after_the_firewall_was_flushed(bench: Bench) -> None:
    in_network(bench)
    network.allow_host(EngineNetwork(bench.network))

    in_network(bench)

    assert chain_of(bench)


# Address pools ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[OwnEngine]:
    """An engine whose address pools are exhausted by its own default network."""
    with own_engine(pools="10.98.0.0/24") as engine:
        engine.take(busybox_image())
        yield engine


def test_exhausted_address_pools_are_reported_with_the_remedy(small: OwnEngine) -> None:
    with closing(DockerSdkRuntime(small.address, host="bench-01")) as runtime, closing(DockerBench()) as bench:
        with pytest.raises(NoNetwork) as refused:
            runtime.run(bench.spec(Program.COUNTS, network=bench.network))

        assert "docker network prune" in refused.value.failure.hint
        assert runtime.containers({}) == []


def test_a_long_name_of_an_installation_fits_the_name_of_an_interface() -> None:
    names = [EngineNetwork(name).bridge for name in ("aima", "t0123456789abc", "t0123456789abd")]

    assert names[0] == "br-aima"
    assert len(set(names)) == 3
    assert all(len(name) <= 15 for name in names)
