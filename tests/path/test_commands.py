"""The command line with real processes and a real Docker Engine."""

from __future__ import annotations

import os
import signal
import socket
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest
from lab.parts import eventually
from lab.registry import registry
from lab.running import PORTS, Aima, engines

from aima_core import errors

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.slow]
SERVICE = "svc-tiny-dial"
WITHIN = timedelta(seconds=60)
"""Of what starts a process, a container or an engine."""


def assert_failed(said, failure: type[errors.AimaError]) -> None:
    assert said.returncode == failure.exit_code, said.stderr
    assert f"code: {failure.code}" in said.stderr
    assert "hint: " in said.stderr
    assert "Traceback" not in said.stderr


def test_invalid_input_is_reported_with_code_sentence_and_next_step_and_changes_nothing(aima: Aima, tmp_path: Path):
    for words, failure in [
        (("service", "start", "tiny-dial"), errors.BadId),
        (("service", "start", "svc-nope-nothing"), errors.UnknownEngine),
        (("service", "start", "svc-tiny-nothing", "--engine", "no-such-engine"), errors.UnknownEngine),
        (("service", "start", "svc-tiny-qwen9"), errors.UnknownModel),
        (("service", "start", SERVICE, "--host", "nowhere"), errors.UnknownHost),
        (("service", "start", SERVICE, "--set", "speed=9"), errors.UnknownArgument),
        (("service", "start", SERVICE, "--port", "80", "--wait"), errors.PortOutOfRange),
        (("service", "stop", "svc-tiny-never"), errors.UnknownService),
        (("operation", "show", "0b5f4c1e-3c1c-4a52-9c55-3f8a3a0f9f21"), errors.UnknownOperation),
        (("service", "start", SERVICE, "--model-path", "/etc", "--wait"), errors.EngineDoesNotServe),
    ]:
        assert_failed(aima.here(*words), failure)

    assert aima.record("port", "list") == []


def test_a_requested_port_in_use_fails_the_start_and_leaves_nothing(aima: Aima):
    with socket.create_server(("127.0.0.1", PORTS[-1])):
        said = aima.aima("service", "start", SERVICE, "--port", str(PORTS[-1]), "--wait")

    assert_failed(said, errors.PortTaken)
    assert aima.record("port", "list") == []
    assert aima.instance(SERVICE)["failure"]["code"] == "port_taken"


def test_a_container_that_exits_at_once_is_reported_with_its_last_log_lines(aima: Aima):
    crash = ("--set", "crash-after=1", "--set", "load-seconds=60", "--set", "last-words=no weights here")
    said = aima.aima("service", "start", SERVICE, *crash, "--wait")

    assert_failed(said, errors.ContainerExited)
    assert "no weights here" in said.stderr
    assert aima.record("port", "list") == []


@pytest.mark.registry
def test_an_image_that_does_not_exist_fails_the_pull(aima: Aima, tmp_path: Path):
    with registry(tmp_path / "registry") as source:
        said = aima.aima("image", "pull", f"{source.address}/no/such:image", "--wait")

    assert_failed(said, errors.ImageNotFound)


def test_ctrl_c_ends_only_the_watching(aima: Aima):
    watching = aima.begin("service", "start", SERVICE, "--set", "load-seconds=4", "--wait")
    assert eventually(lambda: is_loading(aima), within=WITHIN)

    watching.send_signal(signal.SIGINT)
    stdout, stderr = watching.communicate(timeout=60)

    assert watching.returncode == 130
    assert "aima operation cancel" in stdout + stderr
    assert eventually(lambda: aima.instance(SERVICE)["state"] == "ready", within=WITHIN)


def is_loading(aima: Aima) -> bool:
    return any(one["phase"] == "loading" for one in aima.record("operation", "list"))


def test_a_start_can_be_cancelled_while_it_loads(aima: Aima):
    aima.here("service", "start", SERVICE, "--set", "load-seconds=60")
    assert eventually(lambda: is_loading(aima), within=WITHIN)
    operation = aima.record("operation", "list")[0]["id"]

    aima.here("operation", "cancel", operation)

    assert aima.aima("operation", "watch", operation).returncode == errors.Cancelled.exit_code
    assert aima.record("port", "list") == []


def test_a_second_up_finds_its_state_and_engines_keep_serving_meanwhile(aima: Aima):
    aima.here("service", "start", SERVICE, "--wait")
    before = aima.instance(SERVICE)
    assert aima.down() == 0
    with socket.create_connection(("127.0.0.1", before["port"]), timeout=5):
        pass

    aima.up()

    assert eventually(lambda: aima.instance(SERVICE) == before, within=WITHIN)
    again = aima.aima("service", "start", SERVICE, "--wait")
    assert again.returncode == 0
    assert aima.instance(SERVICE)["endpoint"] == before["endpoint"]


def test_a_restart_creates_a_new_container_on_the_same_port(aima: Aima):
    aima.here("service", "start", SERVICE, "--wait")
    before = aima.instance(SERVICE)

    restarted = aima.aima("service", "restart", SERVICE, "--wait")

    assert restarted.returncode == 0, restarted.stderr
    assert aima.instance(SERVICE)["endpoint"] == before["endpoint"]
    assert aima.instance(SERVICE)["fence"] > before["fence"]


def test_a_host_without_a_network_restarts_its_instances(aima: Aima):
    aima.here("service", "start", SERVICE, "--wait")
    port = aima.instance(SERVICE)["port"]
    assert aima.down() == 0
    (container,) = aima.containers()
    container.kill()  # as after a reboot

    with aima.lone_worker(AIMA_REDIS__URL="redis://127.0.0.1:1/0"):
        assert eventually(lambda: answers(port), within=WITHIN)

    aima.up()
    assert eventually(lambda: aima.instance(SERVICE)["state"] == "ready", within=WITHIN)


def answers(port: int) -> bool:
    try:
        return urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


def test_commands_without_an_api_report_it_and_the_next_step(tmp_path: Path):
    nowhere = Aima(tmp_path, installation="none", runtime="docker")

    assert_failed(nowhere.aima("service", "list"), errors.ApiUnavailable)


def test_without_docker_native_processes_are_used_and_reported(tmp_path: Path):
    engines("install-native", "dial", "--prefix", str(tmp_path / "native"))
    path = f"{tmp_path}/native/bin:{os.environ['PATH']}"
    nobody = f"unix://{tmp_path}/docker.sock"
    own_user = {"AIMA_NATIVE__USERS": "none"}  # as another one, an engine could not enter the directory of the test
    aima = Aima(tmp_path, installation="native", runtime="auto", AIMA_DOCKER__HOST=nobody, PATH=path, **own_user)
    aima.up()
    try:
        started = aima.aima("service", "start", SERVICE, "--wait")

        assert started.returncode == 0, started.stderr
        assert aima.record("host", "show", "alpha")["runtime"] == "process"
        assert "the Docker Engine is unavailable" in aima.log()
        stopped = aima.aima("service", "stop", SERVICE, "--wait")
        assert stopped.returncode == 0, stopped.stderr
        assert aima.record("port", "list") == []
    finally:
        aima.end()
