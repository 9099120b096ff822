"""Commands and operations for tests, signed with the key of the tests' hosts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from aima_core.domain.catalog import Engine
from aima_core.domain.ids import HostName, OperationId, Route, ServiceId, SignedText
from aima_core.domain.operations import (
    Command,
    Kind,
    Operation,
    Phase,
    PinModel,
    PullImage,
    PullModel,
    RemoveImage,
    RemoveModel,
    StartService,
    State,
    StopService,
)
from aima_core.domain.services import Service
from aima_core.store.operation_records import QueuedOperation
from aima_core.store.operations import OperationStore, now
from aima_core.trust.keys import KeyRing, SigningKey
from aima_core.trust.orders import DEFAULT_EXPIRY, Order, SignedOrder, digest_of, images_of, pull_policy_of
from aima_core.trust.records import SignedService
from aima_worker.operations.container_spec import Granted

SIGNING_KEY = SecretStr("the seed of the tests' own signing key")
PUBLIC_KEY = SigningKey(SIGNING_KEY).public
KEYS = KeyRing([PUBLIC_KEY])
SERVICE = ServiceId("svc-tiny-dial")
WRITTEN_AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


def an_engine(**changes: object) -> Engine:
    facts: dict[str, object] = {
        "name": "tiny-test",
        "type": "tiny",
        "image": "tiny:1",
        "command": ["serve"],
        "port": 8000,
        "health_check": {"timeout": "10s"},
        "requires": {"platforms": ["linux/amd64", "linux/arm64"], "memory": "10MB"},
    }
    return Engine.model_validate({**facts, **changes})


def a_spec_of(service: str = SERVICE, *, key: SecretStr = SIGNING_KEY, **fields: object) -> SignedService:
    """A signed spec, written at the same time in every test."""
    spec = Service.model_validate({"id": service, "created_at": WRITTEN_AT, **fields})
    return SignedService.of(spec, SigningKey(key))


def a_start_of(service: str = SERVICE, *, port: int | None = None, **engine: object) -> StartService:
    spec = SignedText(**dict(a_spec_of(service, port=port).record))
    return StartService(service=ServiceId(service), engine=an_engine(**engine), port=port, spec=spec)


def a_stop_of(service: str = SERVICE, *, grace: str = "1s") -> StopService:
    return StopService.model_validate({"service": service, "grace": grace})


def a_pull(*images: str) -> PullImage:
    return PullImage(images=images or ("tiny:1",))


def enqueue_signed(
    store: OperationStore,
    command: Command,
    *,
    host: str = "alpha",
    route: Route | None = None,
    fence: int | None = None,
    seconds_later: int = 0,
    key: SecretStr = SIGNING_KEY,
    id: OperationId | None = None,
    after: tuple[OperationId, ...] = (),
) -> Operation:
    """Enqueues a signed operation on the queue of the host, or of the route, as the API does."""
    text, where = command.model_dump_json(), route or Route.to_host(HostName(host))
    created_at = now() + timedelta(seconds=seconds_later)
    operation = Operation(
        id=id or OperationId.new(),
        kind=Kind(command.kind),
        state=State.QUEUED,
        phase=Phase.QUEUED,
        fence=store.reserve_fences(1) if fence is None else fence,
        seq=1,
        route=where,
        routes=(where,),
        needs=command.needs if isinstance(command, StartService) else None,
        service=command.service if isinstance(command, StartService | StopService) else None,
        engine=command.engine.name if isinstance(command, StartService) else None,
        image=images_of(command)[0] if isinstance(command, PullImage | RemoveImage) else None,
        model=command.model if isinstance(command, PullModel | RemoveModel | PinModel) else None,
        created_at=created_at,
        expires_at=created_at + DEFAULT_EXPIRY,
    )
    order = order_of(operation, command, key=key)
    return store.enqueue([QueuedOperation(operation, text, order, after=after)])[0]


def granted_to(
    command: StartService,
    *,
    id: OperationId | None = None,
    fence: int = 1,
    gpus: tuple[str, ...] = (),
    host: str = "alpha",
    key: SecretStr = SIGNING_KEY,
) -> Granted:
    """What the host has been ordered, and granted: the labels of its container."""
    operation = Operation(
        id=id or OperationId.new(),
        kind=Kind.START,
        state=State.QUEUED,
        phase=Phase.QUEUED,
        fence=fence,
        route=Route.to_host(HostName(host)),
        routes=(Route.to_host(HostName(host)),),
        needs=command.needs,
        service=command.service,
        created_at=WRITTEN_AT,
    )
    return Granted(order_of(operation, command, key=key), command.model_dump_json(), gpus)


def order_of(operation: Operation, command: Command, *, key: SecretStr = SIGNING_KEY, **changes: Any) -> SignedOrder:
    """The signed order of an operation; `changes` are fields that it has in place of the operation's own."""
    digest = digest_of(command.model_dump_json())
    order = Order.of(operation, command=digest, images=images_of(command), pull=pull_policy_of(command), caller="test")
    return order.model_copy(update=changes).sign(SigningKey(key))
