"""The contract of `ContainerRuntime.logs`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from threading import Thread, Timer

import pytest
from contract.bench import FLOOD, LAST_WORDS, LONG, Bench, Program
from contract.test_remove import said
from contract.test_run import STARTS_WITHIN, has_ended
from lab.leaks import nothing_held
from lab.parts import eventually

from aima_core.logs.protocol import LogLine
from aima_worker.runtime import ContainerRuntime
from aima_worker.runtimes.line_splitter import LINE_LIMIT


def test_the_last_log_lines_of_a_crashed_engine_can_be_read(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.CRASHES)
    runtime.run(spec)
    assert eventually(lambda: has_ended(runtime, spec.name), within=STARTS_WITHIN)

    lines = said(runtime, spec.name)

    assert lines == [LAST_WORDS]


def test_the_log_of_a_missing_container_is_empty(runtime: ContainerRuntime) -> None:
    with runtime.logs("aima-bench-nobody", follow=True) as log:
        lines = list(log)

    assert lines == []


def test_stdout_and_stderr_are_distinguished_and_each_in_order(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.separates_streams:
        pytest.skip("this runtime cannot tell them apart")
    spec = bench.spec(Program.SPEAKS)
    runtime.run(spec)
    assert eventually(lambda: len(said(runtime, spec.name)) == 4)

    with runtime.logs(spec.name, follow=False) as log:
        lines = list(log)

    assert [line.text for line in lines if line.stream == "stdout"] == ["out 1", "out 2"]
    assert [line.text for line in lines if line.stream == "stderr"] == ["err 1", "err 2"]


def test_every_line_has_its_timestamp(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SPEAKS)
    before = datetime.now(UTC) - timedelta(seconds=2)
    runtime.run(spec)
    assert eventually(lambda: len(said(runtime, spec.name)) == 4)

    with runtime.logs(spec.name, follow=False) as log:
        lines = list(log)

    for stream in ("stdout", "stderr"):
        times = [line.at for line in lines if line.stream == stream]
        assert times == sorted(times)
        assert all(before < at < datetime.now(UTC) + timedelta(seconds=2) for at in times)


def test_a_tail_returns_the_last_lines(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.FLOODS)
    runtime.run(spec)
    assert eventually(lambda: has_ended(runtime, spec.name), within=STARTS_WITHIN)

    with runtime.logs(spec.name, follow=False, tail=3) as log:
        lines = [line.text for line in log]

    assert lines == [f"line {number}" for number in range(FLOOD - 2, FLOOD + 1)]


def test_a_tail_of_zero_returns_nothing(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.CRASHES)
    runtime.run(spec)
    assert eventually(lambda: has_ended(runtime, spec.name), within=STARTS_WITHIN)

    with runtime.logs(spec.name, follow=False, tail=0) as log:
        lines = list(log)

    assert lines == []


def test_since_omits_earlier_lines(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.COUNTS)
    runtime.run(spec)
    assert eventually(lambda: len(said(runtime, spec.name)) >= 6)
    with runtime.logs(spec.name, follow=False) as log:
        lines = list(log)
    fourth = lines[3]
    at_once = [line.text for line in lines if line.at == fourth.at]  # lines that were read at once have one time

    with runtime.logs(spec.name, follow=False, since=fourth.at) as log:
        first = next(iter(log))

    # Docker Engine keeps nanoseconds and AIMA microseconds: the line of that microsecond may be included or not.
    assert first.text in (*at_once, f"count {int(at_once[-1].split()[1]) + 1}")


def test_a_log_flood_loses_no_line(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.FLOODS)
    runtime.run(spec)

    with runtime.logs(spec.name, follow=True) as log:
        lines = [line.text for line in log]

    assert lines == [f"line {number}" for number in range(1, FLOOD + 1)]


def test_any_bytes_of_an_engine_are_returned_as_lines_without_control_characters(
    bench: Bench, runtime: ContainerRuntime
) -> None:
    spec = bench.spec(Program.JUNK)
    runtime.run(spec)
    assert eventually(lambda: has_ended(runtime, spec.name), within=STARTS_WITHIN)

    lines = said(runtime, spec.name)

    assert lines[0] == "red"
    assert lines[1] == "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} bad  bytes"
    assert lines[-1] == "end"
    assert "".join(lines[2:-1]) == "x" * LONG
    assert max(len(line.encode()) for line in lines) <= LINE_LIMIT


def test_a_follower_receives_new_lines_and_ends_with_the_container(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.COUNTS)
    runtime.run(spec)
    lines: list[LogLine] = []

    with runtime.logs(spec.name, follow=True) as log:
        reader = Thread(target=lambda: lines.extend(log))
        reader.start()
        assert eventually(lambda: len(lines) >= 5, within=STARTS_WITHIN)
        runtime.remove(spec.name, grace=timedelta(0))
        reader.join(10)

    assert not reader.is_alive()
    assert [line.text for line in lines] == [f"count {number}" for number in range(1, len(lines) + 1)]
    assert len(lines) >= 5


def test_without_follow_the_present_lines_are_returned(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.STUBBORN)
    runtime.run(spec)
    assert eventually(lambda: said(runtime, spec.name) == ["deaf"])
    began = time.monotonic()

    lines = said(runtime, spec.name)

    assert lines == ["deaf"]
    assert time.monotonic() - began < 10  # a follower would wait for as long as the engine runs


def test_closing_wakes_a_blocked_reader_of_a_silent_log(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.STUBBORN)
    runtime.run(spec)
    log = runtime.logs(spec.name, follow=True)
    lines = iter(log)
    first = next(lines).text
    Timer(0.5, log.close).start()
    began = time.monotonic()

    rest = list(lines)

    assert (first, rest) == ("deaf", [])
    assert time.monotonic() - began < 10  # else it is blocked for as long as the engine runs


def test_closing_twice_or_before_reading_raises_nothing(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.COUNTS)
    runtime.run(spec)
    log = runtime.logs(spec.name, follow=True)

    log.close()
    log.close()

    assert list(log) == []


def test_a_hundred_opened_and_closed_logs_leak_nothing(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.COUNTS)
    runtime.run(spec)
    assert eventually(lambda: len(said(runtime, spec.name)) >= 1)

    with nothing_held():
        for _ in range(100):
            with runtime.logs(spec.name, follow=True) as log:
                next(iter(log))
