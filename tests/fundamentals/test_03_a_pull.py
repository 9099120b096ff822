"""A pull: an image that is not on the host is fetched once, with its progress in bytes."""

from __future__ import annotations

from lab.commands import a_pull as pull_of
from lab.commands import a_start_of as start_of

from aima_core.domain.operations import Phase, State
from aima_worker.runtimes.fake.streams import Published


def test_a_start_pulls_a_missing_image_first_and_reports_its_bytes(host):
    host.runtime.published["large:1"] = Published(layers=(10_000_000, 20_000_000))

    outcome = host.execute(start_of(image="large:1"))

    progress = [event.progress for event in outcome.events if event.progress]
    assert outcome.phases[0] is Phase.PULLING
    assert [each.downloaded for each in progress] == sorted(each.downloaded for each in progress)
    assert progress[-1].downloaded == progress[-1].total == 30_000_000
    assert outcome.operation.state is State.SUCCEEDED


def test_a_stalled_pull_can_be_cancelled_and_leaves_nothing(host):
    host.runtime.published["large:1"] = Published()
    host.runtime.stall_next_pull()
    operation, outcome = host.begin(pull_of("large:1"), until=Phase.PULLING)

    host.cancel(operation)

    assert outcome.result(60).operation.state is State.CANCELLED
    assert host.runtime.image("large:1") is None
