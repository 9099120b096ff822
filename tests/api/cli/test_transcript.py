"""The transcript of a start: the output that stays on the screen at its end, phase by phase."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from api.cli.stand_in import HOLD, ID, SERVICE, StandIn, a_failure, a_layer, a_pull, an_event, an_operation
from api.cli.terminal import Screen, run_on_terminal

START = f"POST /v1/services/{SERVICE}:start"
MB = 1_000_000
CONTAINER = f"aima.{SERVICE}.box"
STARTED = f"Container {CONTAINER} started (id: a3f2c8d1e5f6). Loading the model from /models."
COMMAND = [
    *(sys.executable, "-c", "from aima_api.cli.main import main; main()"),
    *("service", "start", SERVICE, "--wait"),
]


def pulling(seq: int, after: float, first: str, second: str, *, mega: int) -> str:
    layers = [
        a_layer("4f4fb700ef54", "exists"),
        a_layer("a1b2c3d4e5f60718", first, downloaded=512 * MB, extracted=512 * MB, total=512 * MB),
        a_layer("b1b2c3d4e5f6", second, downloaded=(mega - 512) * MB, total=2100 * MB),
    ]
    progress = a_pull(mega * MB, mega * MB, 2612 * MB, layers=layers, rate=58e6)
    return an_event(seq, "pulling", after=after, name="progress", progress=progress, host="box")


BEGINNING = [
    an_event(1, "queued", message="Waiting for a host of gb10.arm64."),
    an_event(2, "pulling", after=1, host="box", message="Pulling zhiwen-vllm:0128"),
    pulling(3, 2, "downloading", "waiting", mega=600),
    pulling(4, 14, "done", "downloading", mega=900),
    pulling(5, 45, "done", "done", mega=2612),
]
LOADING = [
    an_event(6, "starting", after=46, host="box"),
    an_event(7, "loading", after=47, host="box", message=STARTED),
    an_event(8, "loading", after=90, name="log", lines=["INFO  Loading weights: 23/80 layers (28%)"]),
    an_event(9, "loading", after=200, name="log", lines=["INFO  Loading weights: 80/80 layers (100%)"]),
]
END = an_event(10, "ready", after=272, name="end", host="box", endpoint="http://box:20000")
PHASES = [
    "Waiting for a host of gb10.arm64.",
    "Pulling zhiwen-vllm:0128",
    "layer a1b2c3d4e5f6  512 MB / 512 MB  done in 12 s",
    "layer b1b2c3d4e5f6  2.1 GB / 2.1 GB  done in 31 s",
    "Image pull complete (2.61 GB in 45 s)",
    "Starting container",
    STARTED,
    "INFO  Loading weights: 23/80 layers (28%)",
    "INFO  Loading weights: 80/80 layers (100%)",
    f"✓ {SERVICE} on box: ready in 4 min 32 s at http://box:20000",
    "queued 1.0 s, pulling 45 s, starting 1.0 s, loading 3 min 45 s",
]


@pytest.fixture
def started(script: StandIn) -> StandIn:
    script.answer(START, {"operations": [an_operation()]}, status=202)
    return script


def environment(script: StandIn, **more: str) -> dict[str, str]:
    hidden = ("NO_COLOR", "COLUMNS", "LINES", "TERM")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"AIMA_URL": script.url} | more


def assert_in_order(phrases: list[str], text: str) -> None:
    position = 0
    for phrase in phrases:
        found = text.find(phrase, position)
        assert found >= 0, f"{phrase!r} is missing, or out of order, in:\n{text}"
        position = found + len(phrase)


def unwrapped(screen: Screen) -> str:
    """The screen's text without the line breaks caused by its width."""
    lines = [line if len(line) == screen.columns else f"{line.rstrip()}\n" for line in screen.lines]
    return "".join(lines)


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_every_phase_and_its_bars_stay_readable(columns: int, started: StandIn) -> None:
    started.stream(*BEGINNING, *LOADING, END)
    screen = Screen(columns)

    code, output = run_on_terminal(COMMAND, columns=columns, environment=environment(started))
    screen.write(output)

    assert code == 0
    assert_in_order(PHASES, unwrapped(screen))
    assert screen.text.count("[====================]") == 2
    assert all(screen.text.count(phrase) == 1 for phrase in ("Pulling zhiwen-vllm:0128", "23/80", "80/80"))


def test_without_a_terminal_every_phase_is_a_line(started: StandIn) -> None:
    started.stream(*BEGINNING, *LOADING, END)

    done = subprocess.run(COMMAND, env=environment(started), capture_output=True, text=True, timeout=30, check=True)

    assert_in_order(PHASES, done.stdout)
    assert "100%, 2.61 GB of 2.61 GB downloaded" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("ends_well", [True, False])
def test_a_terminal_that_requests_no_escapes_gets_none(
    setting: dict[str, str], ends_well: bool, started: StandIn
) -> None:
    failed = an_event(10, "failed", after=272, name="end", host="box", failure=a_failure())
    started.stream(*BEGINNING, *LOADING, END if ends_well else failed)

    code, output = run_on_terminal(COMMAND, columns=80, environment=environment(started, **setting))

    assert (code == 0) is ends_well
    assert "\x1b" not in output
    assert "Pulling zhiwen-vllm:0128" in output


@pytest.mark.parametrize(("columns", "drawn"), [(20, "…"), (80, "downloading")])
def test_ctrl_c_leaves_no_spinner_on_the_terminal(columns: int, drawn: str, started: StandIn) -> None:
    started.stream(*BEGINNING[:3], HOLD)
    screen, typed = Screen(columns), []

    def interrupt(output: str, enter: Callable[[bytes], None]) -> None:
        if drawn in output and not typed:
            typed.append(True)
            enter(b"\x03")

    code, output = run_on_terminal(COMMAND, columns=columns, environment=environment(started), on_output=interrupt)
    screen.write(output)

    assert code == 130
    assert f"aima operation watch {ID}" in unwrapped(screen)
    assert "^C" not in screen.text
    for moving in ("⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏", "total", "━"):
        assert moving not in screen.text


def test_a_failure_does_not_repeat_lines_that_were_streamed(started: StandIn) -> None:
    tail = ["INFO  Loading weights: 23/80 layers (28%)", "INFO  Loading weights: 80/80 layers (100%)", "out of memory"]
    failed = an_event(10, "failed", after=272, name="end", host="box", failure=a_failure(log_tail=tail))
    started.stream(*BEGINNING, *LOADING, failed)

    code, output = run_on_terminal(COMMAND, columns=80, environment=environment(started))

    assert code != 0
    assert (output.count("23/80"), output.count("80/80"), output.count("out of memory")) == (1, 1, 1)


def test_a_failure_on_a_separate_stream_is_complete(started: StandIn) -> None:
    tail = ["INFO  Loading weights: 80/80 layers (100%)", "out of memory"]
    failed = an_event(10, "failed", after=272, name="end", host="box", failure=a_failure(log_tail=tail))
    started.stream(*BEGINNING, *LOADING, failed)

    done = subprocess.run(COMMAND, env=environment(started), capture_output=True, text=True, timeout=30, check=False)

    assert "80/80" in done.stdout
    assert f"last log lines of the engine:\n  {tail[0]}\n  {tail[1]}\n" in done.stderr


def test_with_wait_nothing_to_do_is_a_sentence(script: StandIn) -> None:
    script.answer(START, {"operations": []}, status=202)

    done = subprocess.run(COMMAND, env=environment(script), capture_output=True, text=True, timeout=30, check=True)

    assert (done.stdout, done.stderr) == ("", "Nothing to do.\n")
