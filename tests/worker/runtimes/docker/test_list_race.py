"""Listings that race with removals: they are complete, and a container that vanishes does not fail them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event, Thread

import docker
import pytest
from contract.bench import Bench, Program
from lab.images import busybox_image

from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = pytest.mark.docker


@pytest.fixture
def churn(bench: Bench) -> Iterator[None]:
    """Containers with the bench's labels that end at once and are removed."""
    enough, image = Event(), busybox_image()

    def come_and_go() -> None:
        with closing(docker.APIClient()) as client:
            while not enough.is_set():
                made = client.create_container(image, ["sh", "-c", ":"], labels=dict(bench.labels))["Id"]
                client.start(made)
                client.remove_container(made, force=True)

    threads = [Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    enough.set()
    for thread in threads:
        thread.join()


def test_containers_that_stay_are_in_every_listing_while_others_are_removed(
    bench: Bench, churn: None, engine: DockerSdkRuntime
) -> None:
    spec = bench.spec(Program.COUNTS)
    bench.runtime.run(spec)

    listed = [{each.name for each in engine.containers(bench.labels)} for _ in range(60)]

    assert all(spec.name in names for names in listed)
    assert any(len(names) > 1 for names in listed), "nothing came or went meanwhile"
