"""Redis loses its data, or a worker is killed: engines keep running, and their records are rebuilt within seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread

import docker
import pytest
from faults.dial import DIAL_IMAGE
from faults.processes import LOADS, PORTS, SeparateProcesses
from lab.parts import eventually
from lab.redis_server import RedisServer

from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.domain.services import InstanceState
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore

pytestmark = [pytest.mark.docker, pytest.mark.redis]
SERVICE = "svc-tiny-dial"
INSTANCE = InstanceId(f"{SERVICE}@alpha")
REACHED_WITHIN = timedelta(seconds=60)
"""A phase that comes after the start of a container."""
KNOWN_WITHIN = timedelta(seconds=30)
"""15 s are promised, which determines the worker's intervals; a busy machine has more. So below."""
TAKEN_OVER_WITHIN = timedelta(seconds=40)
"""20 s are promised."""
SEEN_TO_WITHIN = timedelta(seconds=30)
"""After a worker's start, earlier containers are reported, finished or removed: 10 s are promised."""
FREE_WITHIN = timedelta(seconds=40)
"""30 s are promised."""


def emptied(redis: RedisServer, _: Path) -> None:
    redis.empty()


def killed_and_begun_anew(redis: RedisServer, directory: Path) -> None:
    redis.kill()
    shutil.rmtree(directory / "redis/appendonlydir")
    redis.start()


def start(aima: SeparateProcesses, *options: str, service: str = SERVICE) -> None:
    started = aima.here("service", "start", service, *options, "--wait")
    assert started.returncode == 0, started.stderr + aima.log("worker")


def stop(aima: SeparateProcesses, *, service: str = SERVICE) -> None:
    stopped = aima.here("service", "stop", service, "--wait")
    assert stopped.returncode == 0, stopped.stderr + aima.log("worker")


def kept_spec(aima: SeparateProcesses, service: str) -> object:
    """The signed spec on the host's disk; None if it keeps none."""
    file = Path(aima.environment["AIMA_STATE_DIR"]) / "fences" / f"{service}.json"
    return json.loads(file.read_text()).get("record")


def is_ready(aima: SeparateProcesses) -> bool:
    said = aima.here("service", "status", SERVICE, "-o", "json")
    return said.returncode == 0 and '"ready"' in said.stdout


def stored_service(aima: SeparateProcesses) -> dict[str, object]:
    """Nothing while it is refused or unknown."""
    said = aima.here("service", "status", SERVICE, "-o", "json")
    reported = json.loads(said.stdout) if said.returncode == 0 else {}
    return {name: value for name, value in reported.items() if name != "instances"}


def failure_code(aima: SeparateProcesses) -> str | None:
    failure = aima.instance(SERVICE).get("failure")
    return failure and str(failure["code"])


def leased(aima: SeparateProcesses) -> list[int]:
    return sorted(lease["port"] for lease in aima.record("port", "list"))


def labelled(aima: SeparateProcesses) -> list[int]:
    """The ports in the containers' labels."""
    return sorted(int(container.labels["aima.port"]) for container in aima.containers())


def record_as_unhealthy(redis: RedisServer) -> None:
    """A stale state that the next reconcile pass must correct."""
    link = command_link(redis.url)
    services = ServiceStore(link)
    instance = services.instance(INSTANCE)
    assert instance is not None
    assert services.update_status(instance.model_copy(update={"state": InstanceState.UNHEALTHY}))
    link.close()


@contextmanager
def followed(aima: SeparateProcesses) -> Iterator[list[str]]:
    """The lines of the service's log, as a follower receives them."""
    lines: list[str] = []
    with aima.begin("service", "logs", SERVICE, "--follow") as following:
        assert following.stdout is not None
        Thread(target=lines.extend, args=(following.stdout,)).start()
        try:
            yield lines
        finally:
            following.kill()


@pytest.mark.slow
@pytest.mark.parametrize("lose", [emptied, killed_and_begun_anew], ids=lambda lose: lose.__name__)
def test_containers_are_adopted_and_none_is_removed_after_redis_has_lost_its_data(
    aima: SeparateProcesses, own_redis: RedisServer, tmp_path: Path, lose: Callable[[RedisServer, Path], None]
) -> None:
    start(aima)
    before, ran, asked = aima.instance(SERVICE), aima.processes(), stored_service(aima)

    lose(own_redis, tmp_path)
    assert eventually(lambda: is_ready(aima), within=KNOWN_WITHIN), aima.log("worker")

    assert aima.processes() == ran
    assert stored_service(aima) == asked
    assert aima.instance(SERVICE)["endpoint"] == before["endpoint"]
    assert [lease["port"] for lease in aima.record("port", "list")] == [before["port"]]
    stop(aima)
    assert aima.containers() == []
    assert aima.record("port", "list") == []
    start(aima)
    assert aima.instance(SERVICE)["endpoint"] == before["endpoint"]
    stop(aima)


@pytest.mark.slow
def test_a_stopped_service_comes_back_signed_and_a_removed_one_does_not_after_redis_has_lost_its_data(
    aima: SeparateProcesses, own_redis: RedisServer
) -> None:
    removed = "svc-tiny-gone"
    for service in (removed, SERVICE):
        start(aima, "--model", "Dial", "--set", "load-seconds=1", service=service)
        stop(aima, service=service)
    before = stored_service(aima)
    assert aima.here("service", "remove", removed).returncode == 0
    assert eventually(lambda: not kept_spec(aima, removed), within=KNOWN_WITHIN)

    own_redis.empty()
    with own_redis.client() as attacker:
        attacker.set(keys.service(ServiceId(SERVICE)), '{"text": "{}", "signature": "forged"}')
        attacker.zadd(keys.SERVICES, {SERVICE: 0})
    assert eventually(lambda: stored_service(aima) == before, within=KNOWN_WITHIN), aima.log("worker")

    assert [each["id"] for each in aima.record("service", "list")] == [SERVICE]
    start(aima)
    assert [json.loads(each.labels["aima.command"])["spec"] for each in aima.containers()] == [kept_spec(aima, SERVICE)]
    stop(aima)


@pytest.mark.slow
def test_a_running_start_without_a_record_fails_as_lost_and_its_engine_becomes_ready(
    aima: SeparateProcesses, own_redis: RedisServer
) -> None:
    id = aima.submit("service", "start", SERVICE, *LOADS)
    assert eventually(lambda: aima.operation(id)["phase"] == "loading", within=REACHED_WITHIN)
    ran = aima.processes()

    own_redis.empty()
    shown = eventually(lambda: aima.here("operation", "show", id).returncode == 0, within=KNOWN_WITHIN)
    assert shown, aima.log("worker")

    assert aima.operation(id)["failure"]["code"] == "operation_lost"
    aima.finish_loading()
    assert eventually(lambda: is_ready(aima), within=KNOWN_WITHIN), aima.log("worker")
    assert aima.processes() == ran
    stop(aima)


@pytest.mark.slow
def test_a_killed_worker_leaves_a_running_engine_unchanged(aima: SeparateProcesses, own_redis: RedisServer) -> None:
    start(aima, "--set", "flood=5")
    before, ran = aima.instance(SERVICE), aima.processes()

    with followed(aima) as lines:
        assert eventually(lambda: len(lines) > 5, within=REACHED_WITHIN)
        aima.kill_worker()
        record_as_unhealthy(own_redis)
        aima.start_worker()
        reported = eventually(lambda: is_ready(aima), within=SEEN_TO_WITHIN)
        received = len(lines)
        assert eventually(lambda: len(lines) > received, within=SEEN_TO_WITHIN), aima.log("worker")

    assert reported, aima.log("worker")
    assert aima.processes() == ran
    assert {**aima.instance(SERVICE), "since": before["since"]} == before
    stop(aima)
    assert aima.containers() == []


@pytest.mark.slow
def test_a_start_whose_worker_is_killed_while_loading_continues_with_the_same_engine(aima: SeparateProcesses) -> None:
    id = aima.submit("service", "start", SERVICE, *LOADS)
    assert eventually(lambda: aima.operation(id)["phase"] == "loading", within=REACHED_WITHIN)
    ran = aima.processes()

    aima.kill_worker()
    aima.start_worker()
    assert eventually(lambda: aima.operation(id)["attempt"] == 2, within=TAKEN_OVER_WITHIN), aima.log("worker")
    aima.finish_loading()
    assert eventually(lambda: aima.operation(id)["state"] == "succeeded", within=TAKEN_OVER_WITHIN), aima.log("worker")

    assert aima.processes() == ran
    assert aima.operation(id)["attempt"] == 2
    assert leased(aima) == labelled(aima) == [aima.instance(SERVICE)["port"]]
    stop(aima)
    assert leased(aima) == []


@pytest.mark.slow
def test_a_start_whose_worker_is_killed_between_create_and_start_is_completed_by_the_next_worker(
    aima: SeparateProcesses,
) -> None:
    aima.kill_worker()
    aima.start_a_worker_that_is_killed_before_it_starts_a_container()
    id = aima.submit("service", "start", SERVICE)
    assert aima.until_worker_ends() == -9
    left = [container.status for container in aima.containers()]

    aima.start_worker()
    assert eventually(lambda: aima.operation(id)["state"] == "succeeded", within=SEEN_TO_WITHIN), aima.log("worker")

    assert left == ["created"]
    assert [container.status for container in aima.containers()] == ["running"]
    stop(aima)


@pytest.mark.slow
def test_an_orphaned_container_that_was_created_and_never_started_is_removed(
    aima: SeparateProcesses, own_redis: RedisServer
) -> None:
    aima.kill_worker()
    aima.start_a_worker_that_is_killed_before_it_starts_a_container()
    aima.submit("service", "start", SERVICE)
    assert aima.until_worker_ends() == -9

    own_redis.empty()
    there_at_first = len(aima.containers())
    aima.start_worker()

    assert there_at_first == 1
    assert eventually(lambda: aima.containers() == [], within=SEEN_TO_WITHIN), aima.log("worker")


@pytest.mark.slow
def test_an_orphaned_port_lease_is_released_within_half_a_minute(
    aima: SeparateProcesses, own_redis: RedisServer
) -> None:
    start(aima)
    link = command_link(own_redis.url)
    PortStore(link, HostName("alpha")).persist(InstanceId("svc-tiny-gone@alpha"), PORTS[5], fence=1)
    link.close()
    assert leased(aima) == [*labelled(aima), PORTS[5]]

    assert eventually(lambda: leased(aima) == labelled(aima), within=FREE_WITHIN), aima.log("worker")
    aima.kill_worker()
    (container,) = aima.containers()
    container.remove(force=True)
    aima.start_worker()

    assert eventually(lambda: leased(aima) == [], within=FREE_WITHIN), aima.log("worker")
    assert eventually(lambda: failure_code(aima) == "container_removed"), aima.instance(SERVICE)


@pytest.mark.slow
def test_a_container_with_invalid_aima_labels_is_listed_with_its_host_and_left_alone(aima: SeparateProcesses) -> None:
    labels = {"aima.installation": aima.environment["AIMA_INSTALLATION"], "aima.host": "alpha", "aima.command": "{}"}
    name = f"{labels['aima.installation']}.odd"
    docker.from_env().containers.run(DIAL_IMAGE, ["sleep", "1000"], name=name, labels=labels, init=True, detach=True)

    listed = eventually(lambda: aima.record("host", "show", "alpha").get("strangers") == [name], within=KNOWN_WITHIN)
    assert listed, aima.log("worker")

    assert [container.status for container in aima.containers()] == ["running"]
    assert name in aima.aima("host", "show", "alpha").stdout
