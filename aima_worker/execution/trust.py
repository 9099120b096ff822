"""Commands are carried out only when an API node that knows this host's key has signed them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from aima_core.errors import BadSignature, InvalidRequest
from aima_core.store.claims import Claimed
from aima_core.trust.signatures import verified
from aima_worker.context import HostContext


def verified_command(host: HostContext, claimed: Claimed) -> Any:
    id = claimed.operation.id
    if not verified(claimed.command_text, host.signing_key, id, claimed.signature):
        _never_begun(host, claimed)
        raise BadSignature(host=host.name)
    try:
        return claimed.command
    except ValidationError as wrong:
        _never_begun(host, claimed)
        remedy = "Give the API nodes and the hosts the same version of AIMA."
        raise InvalidRequest(detail=f"This host does not understand the command: {wrong}", remedy=remedy) from wrong


def _never_begun(host: HostContext, claimed: Claimed) -> None:
    if claimed.operation.service:
        host.allocations.release(host.name, claimed.operation.service, fence=claimed.operation.fence)
