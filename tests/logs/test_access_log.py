"""The access log: its lines are those of other log events, and it writes many at once."""

from __future__ import annotations

import pytest
import structlog

from aima_core.logs.access import BATCH, AccessLog, logfmt
from aima_core.logs.sanitize import sanitized_event

AWKWARD = [
    "",
    "plain",
    "two words",
    "a=b",
    'say "hi"',
    "C:\\dir",
    "back\\slash and space",
    "line\nend",
    "\x1b[2Jwiped",
    5,
]


@pytest.mark.parametrize("value", AWKWARD)
def test_a_value_is_rendered_as_in_other_log_events(value):
    rendered = structlog.processors.LogfmtRenderer()(None, "", sanitized_event(None, "", {"name": value}))

    assert f"name={logfmt(value)}" == rendered


@pytest.mark.parametrize("value", [*AWKWARD, "zero\0byte"])
def test_a_line_with_that_value_has_it_so(value):
    written = []
    log = AccessLog("x", ("plain", "awkward"), written.append)

    log.add("id-1", value)
    log.flush()

    assert written[0].endswith(f" event=x plain=id-1 awkward={logfmt(value)}\n")


def test_lines_are_written_at_a_flush_and_when_a_batch_is_full():
    written = []
    log = AccessLog("request answered", ("request",), written.append)

    log.add("id-1")
    assert written == []
    log.flush()
    for number in range(BATCH):
        log.add(number)

    assert [text.count("\n") for text in written] == [1, BATCH]
    assert written[0].endswith('level=info event="request answered" request=id-1\n')


@pytest.mark.parametrize("failure", [OSError("No space left on device"), ValueError("I/O operation on closed file")])
def test_a_write_that_fails_loses_its_lines_and_no_request(failure):
    written = []

    def write(text):
        written.append(text)
        if len(written) == 1:
            raise failure

    log = AccessLog("request answered", ("request",), write)
    for number in range(BATCH + 1):
        log.add(number)
    log.flush()

    assert [text.count("\n") for text in written] == [BATCH, 1]
