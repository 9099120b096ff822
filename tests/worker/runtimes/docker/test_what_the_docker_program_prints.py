"""From what AIMA wants to the `docker` program's arguments, and from what the program prints to what AIMA reads."""

from __future__ import annotations

from datetime import timedelta

import pytest

from aima_core.errors import DockerUnavailable
from aima_worker.runtime import ContainerSpec, Mount
from aima_worker.runtimes.docker.cli.flags import create_arguments
from aima_worker.runtimes.docker.cli.logs import PIECE, Stamped
from aima_worker.runtimes.docker.cli.program import DockerProgram
from aima_worker.runtimes.docker.cli.pull import Painting
from aima_worker.runtimes.docker.container_config import container_config
from aima_worker.runtimes.docker.errors import EngineError

AT = "2026-02-03T04:05:06.123456789Z"
STAMP = f"{AT} ".encode()


def arguments_for(**changes: object) -> list[str]:
    fields: dict[str, object] = {
        "name": "aima-svc",
        "image": "lab/engine:1",
        "command": ("serve", "--port", "8000"),
        "host_address": "127.0.0.1",
        "host_port": 20000,
        "container_port": 8000,
    }
    spec = ContainerSpec.model_validate(fields | changes)
    return create_arguments(container_config(spec), name=spec.name)


# The arguments ----------------------------------------------------------------------------------------------------


def test_nothing_that_follows_the_image_is_taken_for_a_flag() -> None:
    arguments = arguments_for(image="--privileged", command=("--rm", "-v", "/:/host"))

    assert arguments[arguments.index("--") :] == ["--", "--privileged", "--rm", "-v", "/:/host"]


def test_an_image_that_is_not_there_is_not_fetched_on_the_quiet() -> None:
    arguments = arguments_for()

    assert arguments[:3] == ["create", "--pull", "never"]


def test_a_path_with_commas_and_quotes_is_one_field_of_its_mount() -> None:
    arguments = arguments_for(mounts=(Mount(source='/models/a,readonly="no"', target="/model"),))

    assert '--mount=type=bind,"source=/models/a,readonly=""no""",target=/model,readonly' in arguments


@pytest.mark.parametrize(
    ("gpus", "asked"),
    [("all", "--gpus=all"), (2, "--gpus=2"), (("GPU-1", "GPU-2"), '--gpus="device=GPU-1,GPU-2"')],
)
def test_gpus_are_asked_for_as_devices(gpus: object, asked: str) -> None:
    assert asked in arguments_for(gpus=gpus)


def test_an_address_with_colons_is_set_in_brackets() -> None:
    assert "--publish=[::1]:20000:8000/tcp" in arguments_for(host_address="::1")


def test_a_field_of_the_template_that_has_no_flag_is_an_error() -> None:
    config = {"Image": "lab/engine:1", "Cmd": [], "HostConfig": {"Sysctls": {}}}

    with pytest.raises(KeyError, match="Sysctls"):
        create_arguments(config, name="aima-svc")


# The painting of a pull -------------------------------------------------------------------------------------------


def test_a_layer_s_line_says_how_many_bytes_of_how_many() -> None:
    painting = Painting()

    messages = list(painting.feed(b"\x1b[2A\x1b[2K\r01dd791423ae: Downloading  1.114MB/6.002MB\r\x1b[2B"))

    detail = {"current": 1_114_000, "total": 6_002_000}
    assert messages == [{"id": "01dd791423ae", "status": "Downloading", "progressDetail": detail}]


@pytest.mark.parametrize(
    ("painted", "status", "detail"),
    [
        ("Pulling fs layer ", "Pulling fs layer", {}),
        ("Downloading [=====>      ]  49.5kB/2GB", "Downloading", {"current": 49_500, "total": 2_000_000_000}),
        ("Downloading      153B", "Downloading", {"current": 153}),
        ("Extracting 12 s", "Extracting", {"current": 12, "units": "s"}),
        ("Retrying in 5 seconds ", "Retrying in 5 seconds", {}),
        ("Pull complete ", "Pull complete", {}),
    ],
)
def test_every_way_to_paint_a_layer_is_read(painted: str, status: str, detail: object) -> None:
    messages = list(Painting().feed(f"01dd791423ae: {painted}\r".encode()))

    assert messages == [{"id": "01dd791423ae", "status": status, "progressDetail": detail}]


def test_what_is_painted_may_come_in_any_pieces() -> None:
    painted = (
        b"\x1b[1A\x1b[2K\r7e84fc2bc598: Downloading     153B/153B\r\x1b[1BStatus: Downloaded newer image for a:1\r\n"
    )
    whole = list(Painting().feed(painted))

    painting = Painting()
    in_bytes = [message for at in range(len(painted)) for message in painting.feed(painted[at : at + 1])]

    assert in_bytes == whole
    assert [message["status"] for message in whole] == ["Downloading", "Status: Downloaded newer image for a:1"]


def test_what_is_no_layer_s_line_is_passed_over() -> None:
    painted = b"Using default tag: latest\r\nlatest: Pulling from library/vllm\r\n\r\nlocalhost:5000/vllm:latest\r\n"

    assert list(Painting().feed(painted)) == []


# The pipes of a log -----------------------------------------------------------------------------------------------


def test_a_line_is_a_frame_with_its_time() -> None:
    stamped = Stamped()

    frames = list(stamped.feed(STAMP + b"loading\n" + STAMP + b"\n" + STAMP + b"half a "))

    assert frames == [(AT, b"loading\n"), (AT, b"\n")]
    assert list(stamped.feed(b"line\n")) == [(AT, b"half a line\n")]


def test_the_times_between_the_pieces_of_a_long_line_are_no_part_of_it() -> None:
    stamped = Stamped()
    line = b"x" * PIECE + b"y" * PIECE + b"z\n"

    frames = list(stamped.feed(b"".join(STAMP + line[at : at + PIECE] for at in range(0, len(line), PIECE))))

    assert b"".join(data for _, data in frames) == line


def test_a_time_that_a_program_prints_itself_stays_in_its_line() -> None:
    frames = list(Stamped().feed(STAMP + STAMP + b"said the program\n"))

    assert frames == [(AT, STAMP + b"said the program\n")]


def test_a_last_line_without_an_end_is_not_lost() -> None:
    stamped = Stamped()

    assert list(stamped.feed(STAMP + b"Segmentation fault")) == []
    assert list(stamped.end()) == [(AT, b"Segmentation fault")]


def test_a_line_without_a_time_is_the_program_s_own() -> None:
    stamped = Stamped()

    frames = list(stamped.feed(STAMP + b"loading\nunexpected EOF\n"))

    assert frames == [(AT, b"loading\n")]
    assert stamped.unstamped == b"unexpected EOF\n"


# Its complaints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "complaint",
    [
        "Cannot connect to the Docker daemon at unix:///nowhere. Is the docker daemon running?\n",
        'error during connect: Post "http://127.0.0.1:1/v1.41/containers/x/stop": EOF\n',
        "Failed to initialize: unable to resolve docker endpoint: context not found\n",
        "unexpected EOF\n",
    ],
)
def test_an_engine_that_cannot_be_reached_is_away(complaint: str) -> None:
    program = DockerProgram(None, host="spark-01", timeout=timedelta(seconds=5))

    failure = program.failure(complaint)

    assert isinstance(failure, DockerUnavailable)
    assert complaint.strip() in str(failure)


def test_what_the_engine_itself_says_is_a_refusal_in_its_own_words() -> None:
    program = DockerProgram(None, host="spark-01", timeout=timedelta(seconds=5))
    complaint = "Error response from daemon: driver failed: unexpected EOF\nError: failed to start containers: x\n"

    failure = program.failure(complaint)

    assert isinstance(failure, EngineError)
    assert failure.words == "driver failed: unexpected EOF"
