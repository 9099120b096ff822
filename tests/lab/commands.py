"""Commands and operations for tests, signed with the key of the tests' hosts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from aima_core.domain.catalog import Engine
from aima_core.domain.ids import HostName, OperationId, Route, ServiceId, SignedText
from aima_core.domain.operations import Command, Kind, Operation, Phase, PullImage, StartService, State, StopService
from aima_core.domain.resources import resources_of
from aima_core.domain.services import Service
from aima_core.store.operation_records import QueuedOperation
from aima_core.store.operations import OperationStore, now
from aima_core.trust.keys import KeyRing, Purpose, SigningKey
from aima_core.trust.records import SignedService

SIGNING_KEY = SecretStr("the seed of the tests' own signing key")
KEYS = KeyRing([SigningKey(SIGNING_KEY).public])
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
    seconds_later: int = 0,
    key: SecretStr = SIGNING_KEY,
) -> Operation:
    """Enqueues a signed operation on the queue of the host, or of the route, as the API does."""
    id = OperationId.new()
    text = command.model_dump_json()
    operation = Operation(
        id=id,
        kind=Kind(command.kind),
        state=State.QUEUED,
        phase=Phase.QUEUED,
        fence=0,
        route=route or Route.to_host(HostName(host)),
        needs=resources_of(command.engine, command.model) if isinstance(command, StartService) else None,
        service=None if isinstance(command, PullImage) else command.service,
        engine=command.engine.name if isinstance(command, StartService) else None,
        image=command.images[0] if isinstance(command, PullImage) else None,
        created_at=now() + timedelta(seconds=seconds_later),
    )
    signature = SigningKey(key).sign(f"{id}\n{text}", Purpose.ORDER)
    return store.enqueue([QueuedOperation(operation, text, signature)])[0]
