"""Connections to the engine over TCP and ssh: cut, frozen, and re-established."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from contract.bench import Bench, Program
from lab.leaks import nothing_held
from lab.parts import eventually
from lab.proxy import Proxy

from aima_core.errors import DockerUnavailable
from aima_core.logs.protocol import LogLine
from aima_worker.runtime import ContainerRuntime, ContainerSpec
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = pytest.mark.docker

GONE = "unix:///nowhere/docker.sock"
FOLLOWS_WITHIN = timedelta(seconds=30)


@pytest.fixture
def far(line: Proxy) -> Iterator[DockerSdkRuntime]:
    """The engine over that connection."""
    with closing(
        DockerSdkRuntime(f"tcp://127.0.0.1:{line.port}", host="bench-01", timeout=timedelta(seconds=30))
    ) as engine:
        yield engine


@pytest.mark.parametrize(
    "call",
    [
        lambda gone, _: gone.facts(),
        lambda gone, _: gone.image("busybox:1"),
        lambda gone, _: list(gone.pull("busybox:1", stall=timedelta(seconds=1))),
        lambda gone, spec: gone.run(spec),
        lambda gone, spec: gone.find(spec.name),
        lambda gone, spec: gone.containers(spec.labels),
        lambda gone, spec: list(gone.logs(spec.name, follow=True)),
        lambda gone, spec: gone.remove(spec.name, grace=timedelta(0)),
    ],
)
def test_every_call_to_an_unavailable_docker_engine_raises_docker_unavailable(
    bench: Bench, call: Callable[[ContainerRuntime, ContainerSpec], object]
) -> None:
    gone = DockerSdkRuntime(GONE, host="bench-01")

    with pytest.raises(DockerUnavailable) as away:
        call(gone, bench.spec(Program.SERVES))

    assert GONE in str(away.value)
    assert "bench-01" in str(away.value)


def test_a_runtime_can_be_created_before_its_docker_engine_answers(line: Proxy, far: DockerSdkRuntime) -> None:
    line.cut_after = 0
    with pytest.raises(DockerUnavailable):
        far.facts()

    line.cut_after = None

    assert far.facts().kind == "docker"


def test_a_docker_engine_that_was_unreachable_is_found_again(line: Proxy, far: DockerSdkRuntime) -> None:
    far.facts()
    line.cut_what_stands()

    def answers() -> bool:
        try:
            return far.facts().kind == "docker"
        except DockerUnavailable:
            return False

    assert eventually(answers)


def test_a_docker_engine_that_no_longer_answers_times_out(line: Proxy) -> None:
    frozen = DockerSdkRuntime(f"tcp://127.0.0.1:{line.port}", host="bench-01", timeout=timedelta(seconds=1))
    line.freeze_after = 0

    with pytest.raises(DockerUnavailable):
        frozen.facts()


def test_a_remote_docker_engine_does_not_report_free_disk(far: DockerSdkRuntime) -> None:
    assert far.facts().disk_free is None


def test_a_log_follower_neither_loses_nor_repeats_a_line_when_its_connection_is_cut(
    bench: Bench, line: Proxy, far: DockerSdkRuntime
) -> None:
    spec = bench.spec(Program.COUNTS)
    bench.runtime.run(spec)
    lines: list[LogLine] = []
    with far.logs(spec.name, follow=True) as log:
        reader = Thread(target=lambda: lines.extend(log))
        reader.start()

        for cut in range(1, 4):
            assert eventually(lambda enough=10 * cut: len(lines) >= enough, within=FOLLOWS_WITHIN)
            line.cut_what_stands()
        assert eventually(lambda: len(lines) >= 40, within=FOLLOWS_WITHIN)
        bench.runtime.remove(spec.name, grace=timedelta(0))
        reader.join(10)

    assert [said.text for said in lines] == [f"count {number}" for number in range(1, len(lines) + 1)]


def test_a_log_follower_waits_for_an_unavailable_docker_engine(
    bench: Bench, line: Proxy, far: DockerSdkRuntime
) -> None:
    spec = bench.spec(Program.COUNTS)
    bench.runtime.run(spec)
    lines: list[LogLine] = []
    with far.logs(spec.name, follow=True) as log:
        reader = Thread(target=lambda: lines.extend(log))
        reader.start()
        assert eventually(lambda: len(lines) >= 5, within=FOLLOWS_WITHIN)

        line.cut_after = 0
        line.cut_what_stands()
        before = len(lines)
        with bench.runtime.logs(spec.name, follow=True) as meanwhile:
            assert any(said.text == f"count {before + 20}" for said in meanwhile)
        line.cut_after = None

        assert eventually(lambda: len(lines) >= before + 30, within=FOLLOWS_WITHIN)
        log.close()
        reader.join(5)

    assert not reader.is_alive()
    assert [said.text for said in lines] == [f"count {number}" for number in range(1, len(lines) + 1)]


def test_docker_host_is_used_where_no_address_is_given(line: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{line.port}")

    DockerSdkRuntime(host="bench-01").facts()

    assert line.carried > 0


def test_a_docker_engine_behind_ssh_behaves_like_a_local_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift 2\nunset DOCKER_HOST\nexec "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    spec = bench.spec(Program.COUNTS)

    with nothing_held():
        through_ssh = DockerSdkRuntime("ssh://me@spark-01", host="bench-01")
        container = through_ssh.run(spec)
        with through_ssh.logs(spec.name, follow=True) as log:
            first = next(iter(log)).text
        through_ssh.remove(spec.name, grace=timedelta(0))
        del through_ssh, log

    assert container.name == spec.name
    assert first == "count 1"
    assert bench.runtime.find(spec.name) is None
