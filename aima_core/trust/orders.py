"""Orders: what an operation may do, signed by an API node and stored verbatim in the operation's record.

A worker executes an order, not a record: fields of the record that differ from the order are forged. An order is signed
once, under a fence that was reserved before; redelivery, forwarding, requeue and failover keep it.
"""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple, Self

from pydantic import ConfigDict, ValidationError

from aima_core.domain.fields import PullPolicy
from aima_core.domain.ids import InstanceId, ModelId, OperationId, Route, ServiceId, WireModel
from aima_core.domain.operations import (
    Command,
    Kind,
    Operation,
    PinModel,
    PruneModels,
    PullImage,
    PullModel,
    RemoveImage,
    RemoveModel,
    StartService,
    StopService,
)
from aima_core.domain.resources import ResourceRequest
from aima_core.domain.units import format_duration
from aima_core.domain.wire import WIRE_VERSION, require_known_version
from aima_core.errors import Expired, OrderRefused
from aima_core.trust.keys import KeyRing, Purpose, SigningKey

CLOCK_DIFFERENCE = timedelta(minutes=5)
"""How far the clocks of API nodes and hosts may be apart."""
DEFAULT_EXPIRY = timedelta(days=1)
MAX_EXPIRY = timedelta(days=7)
_FROM_RECORD = ("kind", "service", "image", "model", "routes", "fence", "needs")
"""The fields of a record that scripts read; they must be those of the order."""


class Mandate(NamedTuple):
    """On whose behalf an operation is submitted, and for how long it may wait."""

    caller: str
    """The name of the API key, or of the controller."""
    expires: timedelta = DEFAULT_EXPIRY


class SignedOrder(NamedTuple):
    text: str
    """The order's JSON, verbatim."""
    signature: str


class _Versioned(WireModel):
    """What orders of every version have."""

    version: int


class Order(WireModel):
    """An unknown field is refused: it may be a limit that this version would not keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = WIRE_VERSION
    operation: OperationId
    kind: Kind
    service: ServiceId | None
    """With the host of the route, its instance; None for a pull or a removal."""
    image: str | None
    """The image of a pull or a removal."""
    model: ModelId | None = None
    """Of its pull, removal or pin; left out of other signed texts, since earlier versions do not know it."""
    routes: tuple[Route, ...]
    """The route of the only host, or all those whose hosts may execute it."""
    fence: int
    needs: ResourceRequest | None
    images: tuple[str, ...]
    """All that may be pulled, run or removed, in order of preference."""
    pull: PullPolicy = "missing"
    """Left out of the signed text where it is the default, so that a host which does not know it refuses the others."""
    caller: str
    not_before: datetime
    not_after: datetime
    """No attempt begins later."""
    members: tuple[InstanceId, ...] = ()
    """The instances of a group that starts as one; empty in this version."""
    command: str
    """The SHA-256 of the command's JSON, as hexadecimal text."""

    @classmethod
    def of(
        cls, operation: Operation, *, command: str, images: tuple[str, ...], caller: str, pull: PullPolicy = "missing"
    ) -> "Order":
        """The order of an operation that is about to be enqueued; `command` is the digest."""
        return cls.model_construct(
            version=WIRE_VERSION,
            operation=operation.id,
            kind=operation.kind,
            service=operation.service,
            image=operation.image,
            model=operation.model,
            routes=operation.routes,
            fence=operation.fence,
            needs=operation.needs,
            images=images,
            pull=pull,
            caller=caller,
            not_before=operation.created_at,
            not_after=operation.expires_at or operation.created_at + DEFAULT_EXPIRY,
            command=command,
        )

    def sign(self, key: SigningKey) -> SignedOrder:
        text = _text_of(self)
        return SignedOrder(text, key.sign(text, Purpose.ORDER))

    @classmethod
    def read(cls, signed: SignedOrder, keys: KeyRing, *, executed: bool = False) -> Self:
        """Verifies the bytes before it parses them. Raises BadSignature, NewerVersion, OrderRefused."""
        keys.verify(signed.text, Purpose.ORDER, signed.signature, executed=executed)
        try:
            require_known_version(_Versioned.model_validate_json(signed.text).version)
            return cls.model_validate_json(signed.text)
        except ValidationError as wrong:
            raise OrderRefused(detail=f"this version of AIMA does not understand it: {wrong}.") from wrong

    def check(self, record: Operation, command: str) -> None:
        """Raises OrderRefused unless record and command match the signed order."""
        if self.operation != record.id:
            raise OrderRefused(detail=f"it is for operation {self.operation}.")
        forged = [name for name in _FROM_RECORD if getattr(record, name) != getattr(self, name)]
        forged += ["route"] if record.route not in self.routes else []
        forged += ["command"] if self.command != digest_of(command) else []
        if forged:
            raise OrderRefused(detail=f"the record has another {' and '.join(forged)}.")
        if self.members:
            raise OrderRefused(detail="it is for a group, which this version does not execute.")

    def check_command(self, command: Command) -> None:
        """Raises OrderRefused unless the command is for the order's subject."""
        ordered = (self.kind, self.service, self.image, self.model, self.images, self.pull)
        if (command.kind, *_subject_of(command), images_of(command), pull_policy_of(command)) != ordered:
            raise OrderRefused(detail="its command is for another subject.")

    def check_time(self, at: datetime) -> None:
        """By the reader's own clock. Raises Expired, OrderRefused."""
        if at > self.not_after + CLOCK_DIFFERENCE:
            raise Expired(expires=format_duration(self.not_after - self.not_before))
        if self.not_before > at + CLOCK_DIFFERENCE or self.fence > highest_fence():
            raise OrderRefused(detail=f"it was signed at {self.not_before}, which lies in the future.")


def sign_orders(first: Order, operations: Sequence[Operation], key: SigningKey) -> list[SignedOrder]:
    """The orders of operations that differ in id, routes and fence only; `first` is that of the first one.

    At the cost of one text and one signature, whatever their number.
    """
    head, _, rest = _text_of(first).partition(first.operation)
    middle, _, tail = rest.partition(_where_and_fence(first))
    texts = [f"{head}{each.id}{middle}{_where_and_fence(each)}{tail}" for each in operations]
    return list(map(SignedOrder, texts, key.sign_batch(texts, Purpose.ORDER)))


def _where_and_fence(of: Order | Operation) -> str:
    """As in the text of its order, and nowhere before: JSON escapes quotes within a text."""
    routes = '","'.join(of.routes)
    return f'"routes":["{routes}"],"fence":{of.fence},'


def _text_of(order: Order) -> str:
    left_out = {name for name, default in (("pull", "missing"), ("model", None)) if getattr(order, name) == default}
    return order.model_dump_json(exclude=left_out)


def _subject_of(command: Command) -> tuple[ServiceId | None, str | None, ModelId | None]:
    match command:
        case StartService(service=service) | StopService(service=service):
            return service, None, None
        case PullImage() | RemoveImage():
            return None, images_of(command)[0], None
        case PullModel(model=model) | RemoveModel(model=model) | PinModel(model=model):
            return None, None, model
        case PruneModels():
            return None, None, None


def digest_of(command: str) -> str:
    return sha256(command.encode()).hexdigest()


def images_of(command: Command) -> tuple[str, ...]:
    match command:
        case StartService(engine=engine):
            return engine.images
        case PullImage(images=images):
            return images
        case RemoveImage(image=image):
            return (image,)
    return ()


def pull_policy_of(command: Command) -> PullPolicy:
    match command:
        case StartService(engine=engine):
            return engine.pull
        case PullImage(pull=pull):
            return pull
    return "missing"


def clock_ms() -> int:
    """This machine's clock in milliseconds: fences and the times of orders follow no clock that Redis can forge."""
    return time.time_ns() // 1_000_000


def highest_fence() -> int:
    """Fences ascend with the clocks of API nodes: one beyond this is forged, or its clock is wrong."""
    return clock_ms() + int(CLOCK_DIFFERENCE.total_seconds() * 1000)
