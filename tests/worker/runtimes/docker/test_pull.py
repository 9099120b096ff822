"""Pulls by a real engine from a real registry, over good and bad connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Thread, Timer

import pytest
from lab.engine import own_engine
from lab.images import busybox_image, foreign_image, layered_image
from lab.leaks import nothing_held
from lab.parts import eventually
from lab.proxy import Proxy, proxy
from lab.registry import Registry, registry

from aima_core.domain.operations import LayerStep, PullProgress
from aima_core.errors import AimaError, Cancelled, ImageNotFound, PullBroken, PullStalled
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = [pytest.mark.docker, pytest.mark.registry]

STALL = timedelta(seconds=60)
NOTICED_WITHIN_SECONDS = 20
"""After a stall, on a busy machine; the retries of Docker Engine alone take 75 s."""
MB = 1_000_000


def pulled(engine: DockerSdkRuntime, image: str, *, stall: timedelta = STALL) -> list[PullProgress]:
    return list(engine.pull(image, stall=stall))


def failure_of(pull: Callable[[], object]) -> AimaError | None:
    try:
        pull()
    except AimaError as failed:
        return failed
    return None


def test_a_pull_counts_every_byte_of_every_layer(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[3 * MB, 2 * MB, 50]), name=new_name)

    last = pulled(engine, image)[-1]

    sizes = shared_registry.layer_sizes(new_name)
    assert last.total_known
    assert last.downloaded == last.extracted == last.total == sum(sizes)
    assert [layer.total for layer in last.layers] == sizes
    assert {layer.step for layer in last.layers} == {LayerStep.DONE}
    assert last.rate is None
    assert last.eta is None


def test_progress_never_decreases_and_the_total_is_known_before_the_end(
    engine: DockerSdkRuntime, shared_registry: Registry, bad_line: Proxy, new_name: str
) -> None:
    shared_registry.push(layered_image(new_name, layers=[4 * MB, 4 * MB]), name=new_name)
    bad_line.bytes_per_second = 4 * MB
    began = time.monotonic()

    steps = pulled(engine, f"{bad_line.address}/{new_name}")
    on_average = bad_line.carried / (time.monotonic() - began)

    assert [step.downloaded for step in steps] == sorted(step.downloaded for step in steps)
    assert [step.extracted for step in steps] == sorted(step.extracted for step in steps)
    midway = [step for step in steps if step.total_known and 0 < step.downloaded < step.total]
    assert midway
    rated = [step for step in midway if step.rate is not None]
    assert rated
    assert on_average / 4 < rated[-1].rate < 16 * MB
    assert rated[-1].eta is not None


def test_layers_that_are_present_do_not_count(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[1 * MB]), name=new_name)
    pulled(engine, image)

    again = pulled(engine, image)[-1]

    assert (again.downloaded, again.total, again.total_known) == (0, 0, True)


def test_a_pulled_image_has_the_digest_of_its_registry(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(busybox_image(), name=new_name)

    pulled(engine, image)

    facts = engine.image(image)
    assert facts is not None
    assert facts.digest is not None
    assert engine.image(f"{image.rpartition(':')[0]}@{facts.digest}") == facts


def test_an_image_can_be_pulled_by_tag_and_digest_together(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(busybox_image(), name=new_name)
    pulled(engine, image)
    facts = engine.image(image)
    assert facts is not None
    pinned = f"{image}@{facts.digest}"

    pulled(engine, pinned)

    assert engine.image(pinned) == facts


def test_a_registry_without_the_image_reports_no_architecture(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    assert engine.registry_architectures(f"{shared_registry.address}/{new_name}:none") == frozenset()


def test_the_facts_of_a_foreign_image_name_its_architecture(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    host_arch = engine.image(busybox_image())
    assert host_arch is not None
    foreign = "arm64" if host_arch.arch == "amd64" else "amd64"
    image = shared_registry.push(foreign_image(new_name, arch=foreign), name=new_name)

    assert engine.registry_architectures(image) == {foreign}  # before anything is pulled
    pulled(engine, image)

    facts = engine.image(image)
    assert facts is not None
    assert facts.arch == foreign


def test_a_tag_missing_from_the_registry_raises_image_not_found(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(busybox_image(), name=new_name)

    missing_tag = failure_of(lambda: pulled(engine, image.replace(":1", ":2")))
    missing_name = failure_of(lambda: pulled(engine, f"{shared_registry.address}/nobody/{new_name}"))

    assert isinstance(missing_tag, ImageNotFound)
    assert isinstance(missing_name, ImageNotFound)


def test_an_unreachable_registry_interrupts_the_pull(engine: DockerSdkRuntime) -> None:
    failure = failure_of(lambda: pulled(engine, "localhost:1/nobody/has:this"))

    assert isinstance(failure, PullBroken)
    assert "connection refused" in str(failure)


def test_a_layer_that_does_not_match_its_digest_interrupts_the_pull(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[1 * MB]), name=new_name)
    shared_registry.spoil_largest_layer(new_name)

    failure = failure_of(lambda: pulled(engine, image))

    assert isinstance(failure, PullBroken)
    assert "verification failed" in str(failure)
    assert engine.image(image) is None


def test_a_connection_cut_before_the_manifest_interrupts_the_pull(
    engine: DockerSdkRuntime, bad_line: Proxy, new_name: str
) -> None:
    bad_line.cut_after = 0

    failure = failure_of(lambda: pulled(engine, f"{bad_line.address}/{new_name}"))

    assert isinstance(failure, PullBroken)


def test_a_connection_cut_within_a_layer_interrupts_the_pull_after_the_retries_of_the_docker_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_engine(download_attempts=2) as own, own.cell.entered(), registry(tmp_path / "registry") as far:
        monkeypatch.setenv("DOCKER_HOST", own.address)
        far.push(layered_image("cut:1", layers=[4 * MB]), name="cut:1")
        with proxy(far.port) as line, closing(DockerSdkRuntime(own.address, host="alpha")) as engine:
            line.cut_after = 2 * MB
            image = f"{line.address}/cut:1"

            failure = failure_of(lambda: pulled(engine, image, stall=timedelta(seconds=20)))

            assert isinstance(failure, PullBroken)
            assert engine.image(image) is None


def test_a_connection_without_data_is_a_stall_that_names_the_layer(
    engine: DockerSdkRuntime, shared_registry: Registry, bad_line: Proxy, new_name: str
) -> None:
    shared_registry.push(layered_image(new_name, layers=[4 * MB]), name=new_name)
    bad_line.freeze_after = 2 * MB
    began = time.monotonic()

    failure = failure_of(lambda: pulled(engine, f"{bad_line.address}/{new_name}", stall=timedelta(seconds=2)))

    assert isinstance(failure, PullStalled)
    assert "layer" in str(failure)
    assert 2 <= time.monotonic() - began < 2 + NOTICED_WITHIN_SECONDS


def test_a_countdown_to_the_next_retry_does_not_count_as_progress(
    engine: DockerSdkRuntime, shared_registry: Registry, bad_line: Proxy, new_name: str
) -> None:
    shared_registry.push(layered_image(new_name, layers=[4 * MB]), name=new_name)
    bad_line.cut_after = 2 * MB
    began = time.monotonic()

    failure = failure_of(lambda: pulled(engine, f"{bad_line.address}/{new_name}", stall=timedelta(seconds=3)))

    assert isinstance(failure, PullStalled)
    assert time.monotonic() - began < 3 + NOTICED_WITHIN_SECONDS


def test_a_registry_that_accepts_and_never_responds_is_a_stall(
    engine: DockerSdkRuntime, bad_line: Proxy, new_name: str
) -> None:
    bad_line.freeze_after = 0
    began = time.monotonic()

    failure = failure_of(lambda: pulled(engine, f"{bad_line.address}/{new_name}", stall=timedelta(seconds=1)))

    assert isinstance(failure, PullStalled)
    assert "manifest" in str(failure)
    assert time.monotonic() - began < 1 + NOTICED_WITHIN_SECONDS


@pytest.mark.parametrize("freeze_after", [0, 2 * MB])
def test_closing_ends_a_stalled_pull_within_two_seconds(
    engine: DockerSdkRuntime, shared_registry: Registry, bad_line: Proxy, new_name: str, freeze_after: int
) -> None:
    shared_registry.push(layered_image(new_name, layers=[4 * MB]), name=new_name)
    bad_line.freeze_after = freeze_after
    pull = engine.pull(f"{bad_line.address}/{new_name}", stall=STALL)
    failures: list[AimaError | None] = []
    reader = Thread(target=lambda: failures.append(failure_of(lambda: list(pull))))
    reader.start()
    assert eventually(lambda: bad_line.carried >= freeze_after, within=STALL / 2)
    began = time.monotonic()

    pull.close()
    reader.join(10)

    assert time.monotonic() - began < 2
    assert isinstance(failures[0], Cancelled)


def test_after_closing_the_docker_engine_downloads_no_more(
    engine: DockerSdkRuntime, shared_registry: Registry, bad_line: Proxy, new_name: str
) -> None:
    shared_registry.push(layered_image(new_name, layers=[20 * MB]), name=new_name)
    bad_line.bytes_per_second = 2 * MB
    pull = engine.pull(f"{bad_line.address}/{new_name}", stall=STALL)

    with pytest.raises(Cancelled):
        for progress in pull:
            if progress.downloaded:
                pull.close()

    assert eventually(lambda: stands_still(bad_line), within=timedelta(seconds=9))  # by then it would have the layer
    assert bad_line.carried < 10 * MB


def stands_still(line: Proxy) -> bool:
    before = line.carried
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        if line.carried != before:
            return False
        time.sleep(0.05)
    return True


def test_two_concurrent_pulls_of_an_image_both_succeed(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[2 * MB, 2 * MB]), name=new_name)

    with ThreadPoolExecutor(2) as threads:
        ends = [steps[-1] for steps in threads.map(lambda _: pulled(engine, image), range(2))]

    assert engine.image(image) is not None
    assert all(end.downloaded == end.total for end in ends)


def test_a_pull_leaves_no_connection_behind(engine: DockerSdkRuntime, shared_registry: Registry, new_name: str) -> None:
    image = shared_registry.push(busybox_image(), name=new_name)
    engine.facts()

    with nothing_held():
        for _ in range(5):
            pulled(engine, image)
            failure_of(lambda: pulled(engine, image.replace(":1", ":2")))


def test_a_closed_pull_leaves_no_connection_behind(engine: DockerSdkRuntime) -> None:
    engine.facts()
    with socket.create_server(("127.0.0.1", 0)) as silent, nothing_held():
        for _ in range(5):
            pull = engine.pull(f"localhost:{silent.getsockname()[1]}/nobody/has:this", stall=STALL)
            Timer(0.2, pull.close).start()

            assert isinstance(failure_of(lambda pull=pull: list(pull)), Cancelled)
