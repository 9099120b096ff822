"""The orders of a batch: each is the text that its operation alone would have, and verifies by itself."""

from __future__ import annotations

from typing import Any

import pytest
from lab.commands import SIGNING_KEY, WRITTEN_AT

from aima_core.domain.ids import HostName, OperationId, Route, ServiceId
from aima_core.domain.operations import Kind, Operation, Phase, State
from aima_core.domain.resources import ResourceRequest
from aima_core.trust.keys import KeyRing, SigningKey
from aima_core.trust.orders import Order, sign_orders

KEY = SigningKey(SIGNING_KEY)
LIKE_FIELDS = '"routes":["host.host-0"],"fence":1000,'
"""As the texts of the first operation below: a text within the order that holds them is not taken for them."""
KINDS: dict[str, dict[str, Any]] = {
    "start": {"kind": Kind.START, "service": ServiceId("svc-tiny-dial"), "needs": ResourceRequest(memory=1)},
    "pull": {"kind": Kind.PULL, "image": LIKE_FIELDS},
}


def routes_of(number: int) -> tuple[Route, ...]:
    return tuple(Route.to_host(HostName(f"host-{each}")) for each in range(number, 2 * number + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pull", ["missing", "never"])
def test_each_order_of_a_batch_has_the_text_that_it_would_have_alone_and_verifies(kind, pull):
    template = Operation(
        id=OperationId.new(),
        state=State.QUEUED,
        phase=Phase.QUEUED,
        fence=1000,
        route=Route("cpu.amd64"),
        created_at=WRITTEN_AT,
        **KINDS[kind],
    )
    shared = {"command": "0" * 64, "images": (LIKE_FIELDS,), "caller": LIKE_FIELDS, "pull": pull}
    own = [{"id": OperationId.new(), "routes": routes_of(number), "fence": 1000 + number} for number in range(5)]
    operations = [template.model_copy(update=each) for each in own]

    orders = sign_orders(Order.of(operations[0], **shared), operations, KEY)

    ring = KeyRing([KEY.public])
    assert [Order.read(each, ring) for each in orders] == [Order.of(each, **shared) for each in operations]
    assert [each.text for each in orders] == [Order.of(each, **shared).sign(KEY).text for each in operations]
