"""Pulls by the `docker` program: from what it paints on a terminal, the same is known as from the engine itself."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from threading import Thread, Timer

import psutil
import pytest
from lab.images import busybox_image, layered_image
from lab.leftovers import nothing_held
from lab.parts import eventually
from lab.proxy import Proxy
from lab.registry import Registry

from aima_core.domain.operations import LayerStep
from aima_core.errors import AimaError, Cancelled, ImageNotFound, PullBroken, PullStalled
from aima_worker.runtimes.docker.cli.runtime import DockerCli

pytestmark = [pytest.mark.docker, pytest.mark.registry]

STALL = timedelta(seconds=60)
MB = 1_000_000


@pytest.fixture
def program() -> DockerCli:
    return DockerCli(host="bench-01")


def test_a_pull_counts_the_bytes_of_every_layer_to_four_digits(
    program: DockerCli, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[3 * MB, 2 * MB, 50]), name=new_name)

    last = list(program.pull(image, stall=STALL))[-1]

    sizes = shared_registry.layer_sizes(new_name)
    assert last.total_known
    assert last.downloaded == last.extracted == last.total
    assert [layer.total for layer in last.layers] == [pytest.approx(size, rel=0.0005) for size in sizes]
    assert {layer.step for layer in last.layers} == {LayerStep.DONE}
    assert program.image(image) is not None


def test_progress_only_grows_and_has_a_rate(
    program: DockerCli, shared_registry: Registry, bad_line: Proxy, new_name: str
) -> None:
    shared_registry.push(layered_image(new_name, layers=[4 * MB, 4 * MB]), name=new_name)
    bad_line.bytes_per_second = 4 * MB

    steps = list(program.pull(f"{bad_line.address}/{new_name}", stall=STALL))

    assert [step.downloaded for step in steps] == sorted(step.downloaded for step in steps)
    rates = [step.rate for step in steps if step.rate is not None and step.total_known]
    assert rates
    assert 1 * MB < rates[-1] < 16 * MB


def test_what_the_registry_has_not_is_told_from_a_registry_that_is_away(
    program: DockerCli, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(busybox_image(), name=new_name)

    with pytest.raises(ImageNotFound, match="manifest unknown"):
        list(program.pull(image.replace(":1", ":2"), stall=STALL))
    with pytest.raises(PullBroken, match="connection refused"):
        list(program.pull("localhost:1/nobody/has:this", stall=STALL))


def test_a_layer_that_is_not_what_its_digest_says_breaks_the_pull(
    program: DockerCli, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[1 * MB]), name=new_name)
    shared_registry.spoil_largest_layer(new_name)

    with pytest.raises(PullBroken):
        list(program.pull(image, stall=STALL))

    assert program.image(image) is None


def test_a_line_on_which_nothing_comes_any_more_is_a_stall_that_names_the_layer(
    program: DockerCli, shared_registry: Registry, bad_line: Proxy, new_name: str
) -> None:
    shared_registry.push(layered_image(new_name, layers=[4 * MB]), name=new_name)
    bad_line.freeze_after = 2 * MB
    began = time.monotonic()

    with pytest.raises(PullStalled, match="layer"):
        list(program.pull(f"{bad_line.address}/{new_name}", stall=timedelta(seconds=2)))

    assert 2 <= time.monotonic() - began < 6


@pytest.mark.parametrize("freeze_after", [0, 2 * MB])
def test_closing_ends_a_pull_that_hears_nothing_within_two_seconds(
    program: DockerCli, shared_registry: Registry, bad_line: Proxy, new_name: str, freeze_after: int
) -> None:
    shared_registry.push(layered_image(new_name, layers=[4 * MB]), name=new_name)
    bad_line.freeze_after = freeze_after
    pull = program.pull(f"{bad_line.address}/{new_name}", stall=STALL)
    failures: list[AimaError] = []

    def reads() -> None:
        try:
            list(pull)
        except AimaError as failed:
            failures.append(failed)

    reader = Thread(target=reads)
    reader.start()
    assert eventually(lambda: bad_line.carried >= freeze_after)
    began = time.monotonic()

    pull.close()
    reader.join(10)

    assert time.monotonic() - began < 2
    assert isinstance(failures[0], Cancelled)


def test_a_pull_that_was_closed_leaves_no_program_and_no_descriptor_behind(program: DockerCli) -> None:
    before = psutil.Process().children()

    with socket.create_server(("127.0.0.1", 0)) as silent, nothing_held():
        for _ in range(5):
            pull = program.pull(f"localhost:{silent.getsockname()[1]}/nobody/has:this", stall=STALL)
            Timer(0.2, pull.close).start()
            with pytest.raises(Cancelled):
                list(pull)

    assert psutil.Process().children() == before


def test_after_closing_the_engine_downloads_no_more(
    program: DockerCli, shared_registry: Registry, bad_line: Proxy, new_name: str
) -> None:
    shared_registry.push(layered_image(new_name, layers=[20 * MB]), name=new_name)
    bad_line.bytes_per_second = 4 * MB
    pull = program.pull(f"{bad_line.address}/{new_name}", stall=STALL)

    with pytest.raises(Cancelled):
        for progress in pull:
            if progress.downloaded:
                pull.close()

    assert eventually(lambda: stands_still(bad_line), within=timedelta(seconds=5))
    assert bad_line.carried < 10 * MB


def stands_still(line: Proxy) -> bool:
    before = line.carried
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        if line.carried != before:
            return False
        time.sleep(0.05)
    return True
