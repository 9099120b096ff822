"""Starts that pull over a bad connection: cut, frozen or slow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from faults.conftest import STALL
from faults.dial import DIAL_IMAGE, a_dial_from
from lab.commands import a_stop_of
from lab.desk import Desk, Outcome
from lab.engine import OwnEngine
from lab.images import layered_image
from lab.parts import eventually
from lab.proxy import Proxy, proxy
from lab.registry import registry

from aima_core.domain.operations import Phase, StartService, State
from aima_core.domain.services import InstanceState
from aima_core.settings import DockerSettings
from aima_worker.context import Timings

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.redis]

MB = 1_000_000
PULLS_WITHIN = timedelta(seconds=60)
NAME = "far/dial:1"
TRIES = len(Timings().pull_retry_delays) + 1
AT_ONCE = timedelta(seconds=5)
ENDS_WITHIN = 60
"""Seconds."""
CANCELLED_WITHIN = 10
"""Seconds: two are promised; a busy machine has more."""


@pytest.fixture
def line(own: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A connection to a registry that has the dial image, 4 MB larger."""
    monkeypatch.setenv("DOCKER_HOST", own.address)
    with registry(tmp_path / "registry") as far, proxy(far.port) as between:
        far.push(layered_image(NAME, layers=[4 * MB], base=DIAL_IMAGE), name=NAME)
        yield between


def a_start_over(line: Proxy) -> StartService:
    return a_dial_from(f"{line.address}/{NAME}")


def reported_retries(outcome: Outcome) -> list[str]:
    """The failure of each reported retry; the last failure is that of the operation."""
    reported = (event.message or "" for event in outcome.events)
    return [how for message in reported for how in ("failed", "stalled") if f" {how}: " in message]


def nothing_more_comes_over(line: Proxy) -> bool:
    """The proxy would let it: Docker Engine has ended its pull too."""
    before, line.bytes_per_second, line.freeze_after = line.carried, MB, None
    return not eventually(lambda: line.carried > before + MB // 2, within=timedelta(seconds=2))


@pytest.mark.parametrize(
    ("cut_after", "stall"),
    [
        pytest.param(0, timedelta(seconds=10), id="before the manifest"),
        # Docker Engine itself retries such a layer after five seconds.
        pytest.param(2 * MB, timedelta(seconds=10), id="in a layer"),
    ],
)
def test_a_connection_cut_at_every_attempt_fails_the_start_after_all_retries_were_reported(
    private_desk: Desk, line: Proxy, cut_after: int
) -> None:
    line.cut_after = cut_after

    outcome = private_desk.run_command(a_start_over(line))

    assert outcome.operation.state is State.FAILED
    assert outcome.code == "pull_broken"
    assert line.address in outcome.operation.failure.message
    assert reported_retries(outcome) == ["failed"] * TRIES
    assert outcome.instance.state is InstanceState.FAILED
    assert outcome.instance.failure == outcome.operation.failure


@pytest.mark.parametrize("stall", [pytest.param(timedelta(seconds=4), id="before Docker Engine tries again")])
def test_a_connection_cut_once_only_delays_the_start(private_desk: Desk, line: Proxy) -> None:
    line.bytes_per_second = MB
    _, end = private_desk.begin(a_start_over(line))
    assert eventually(lambda: line.carried > MB // 4, within=PULLS_WITHIN)

    line.cut_what_stands()
    line.bytes_per_second = 8 * MB
    outcome = end.result(ENDS_WITHIN)

    assert outcome.operation.state is State.SUCCEEDED
    assert reported_retries(outcome) == ["stalled"]
    last = [event.progress for event in outcome.events if event.progress][-1]
    assert last.downloaded == last.total > 4 * MB
    private_desk.run_command(a_stop_of())


def test_a_connection_without_data_fails_the_start_as_a_stall_that_names_the_layer(
    private_desk: Desk, line: Proxy
) -> None:
    line.freeze_after = 2 * MB

    outcome = private_desk.run_command(a_start_over(line))

    assert outcome.code == "pull_stalled"
    assert "2s at the manifest" in outcome.operation.failure.message
    assert reported_retries(outcome) == ["stalled"] * TRIES
    begun = next(event for event in outcome.events if event.phase is Phase.PULLING)
    stalled = next(event for event in outcome.events if "2s at layer" in (event.message or ""))
    assert f"{line.address}/{NAME}" in stalled.message
    assert stalled.at - begun.at < STALL + AT_ONCE
    assert DockerSettings().stall + AT_ONCE <= timedelta(seconds=125)
    assert nothing_more_comes_over(line)


@pytest.mark.parametrize("stall", [pytest.param(timedelta(minutes=1), id="a long stall")])
def test_a_start_cancelled_in_a_stalled_pull_ends_within_two_seconds_and_downloads_no_more(
    private_desk: Desk, line: Proxy
) -> None:
    line.freeze_after = 2 * MB
    id, end = private_desk.begin(a_start_over(line))
    assert eventually(lambda: line.carried >= 2 * MB, within=PULLS_WITHIN)
    began = time.monotonic()

    private_desk.host.operations.request_cancel(id)
    outcome = end.result(ENDS_WITHIN)
    took = time.monotonic() - began

    assert outcome.operation.state is State.CANCELLED
    assert took < CANCELLED_WITHIN
    assert nothing_more_comes_over(line)


def test_a_stop_cancels_a_start_that_is_pulling(private_desk: Desk, line: Proxy) -> None:
    line.bytes_per_second = MB // 4
    _, end = private_desk.begin(a_start_over(line))
    assert eventually(lambda: line.carried > MB // 8, within=PULLS_WITHIN)
    began = time.monotonic()

    stopped = private_desk.run_command(a_stop_of())

    assert time.monotonic() - began < CANCELLED_WITHIN
    assert end.result(ENDS_WITHIN).operation.state is State.CANCELLED
    assert stopped.phases == [Phase.STOPPING, Phase.STOPPED]
    assert stopped.instance.state is InstanceState.STOPPED
