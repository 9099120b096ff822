"""`aima host forget`: its request, output and exit code."""

from __future__ import annotations

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import StandIn

from aima_core.errors import AimaError, BadId, HostLives, UnknownHost

FORGET = "DELETE /v1/hosts/box"


def test_forgetting_a_host_is_confirmed(script: StandIn, aima: Aima) -> None:
    script.answer(FORGET, None, status=204)

    outcome = aima("host", "forget", "box")

    assert (outcome.code, outcome.out, outcome.err) == (0, "Host box forgotten.\n", "")
    assert len(script.asked(FORGET)) == 1


@pytest.mark.parametrize("row", [HostLives, UnknownHost])
def test_a_host_that_cannot_be_forgotten_exits_with_its_own_code(
    row: type[AimaError], script: StandIn, aima: Aima
) -> None:
    script.refuse(FORGET, code=row.code, status=row.status)

    outcome = aima("host", "forget", "box")

    assert (outcome.code, outcome.out) == (row.exit_code, "")
    assert row.code in outcome.err


def test_a_malformed_host_name_is_refused_without_a_request(script: StandIn, aima: Aima) -> None:
    assert aima("host", "forget", "../box").code == BadId.exit_code
