"""API keys: created once, stored as a digest in a signed record, and looked up by that digest.

The signature covers everything that a key may do, so a writer in Redis can delete a key, which revokes it, but can
neither forge one nor widen its scopes. A decision is cached and confirmed in Redis while the key is used; if Redis does
not answer or has lost its data, cached decisions hold for `gateway.keys_for`, then the key is refused.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Lock
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from aima_api.access.scopes import Caller, Scope
from aima_core.domain.fields import AliasName
from aima_core.domain.ids import WireModel
from aima_core.errors import AimaError, BadSignature, BrokerUnavailable, KeyExists, Unauthorized, UnknownKey
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, pairs
from aima_core.trust.keys import KeyRing, Purpose, SigningKey
from aima_core.trust.records import SignedRecord

KEY_PREFIX = "aima_"
"""By which scanners for leaked secrets recognize a key."""
_KEY_BYTES = 32
_ID_BYTES = 6
MAX_RECORD_BYTES = 16_384
CONFIRM_INTERVAL = timedelta(milliseconds=500)
"""A key in use is looked up again after this long: a revoked one is refused within a second on every node."""
USE_INTERVAL = timedelta(minutes=1)
"""The time of a key's last use is recorded at most this often, by each node."""
MOST_CACHED = 10_000
_EPOCH_FIELD = "epoch"
"""Beside the digests, which are longer."""

KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class KeyOptions(BaseModel):
    """What a key is created with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: KeyName
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(Scope))]
    models: Annotated[tuple[AliasName, ...], Field(max_length=100)] = ()
    """Of `infer`: the only models, services and aliases that the key may use; empty allows all."""
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Of `infer`, at each gateway; None sets no limit."""
    concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Of `infer`, in flight at each gateway; None sets no limit."""

    @model_validator(mode="after")
    def check_limits(self) -> Self:
        limits = {name: getattr(self, name) for name in ("models", "requests_per_minute", "concurrent_requests")}
        if Scope.INFER not in self.scopes and (given := [name for name, limit in limits.items() if limit]):
            raise ValueError(f"`{given[0]}` restricts the scope `infer`, which this key would not have")
        return self


class ApiKey(WireModel):
    """A key as its signed record has it, without the key."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    """None never expires."""
    last_used_at: datetime | None = None
    """To a minute; kept beside the record."""

    @property
    def caller(self) -> Caller:
        return Caller(self.name, self.id, frozenset(self.scopes))

    def may_use(self, name: str, services: Mapping[str, str]) -> bool:
        """Whether it may send requests for this name: `services` are the ones that may answer, with their model ids.

        The name itself is allowed to it, or each service or its model is: a name that it may not use is refused alike
        whether it exists.
        """
        allowed = {each.lower() for each in self.models}
        if not allowed or name.lower() in allowed:
            return True
        return bool(services) and all(allowed & {service, model} for service, model in services.items())


class _Record(ApiKey):
    digest: str


class StoredKeys(NamedTuple):
    items: list[ApiKey]
    """By name."""
    unverified: int
    """Records that were skipped: forged, unreadable, or signed by a key that is no longer trusted."""


class KeyStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(
        self, redis: TextRedis, trusted: KeyRing, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._redis = redis
        self._run = Scripts(redis)
        self._trusted = trusted
        self.now = now

    def create(
        self, options: KeyOptions, *, expires: timedelta | None, by: str, signing_key: SigningKey
    ) -> tuple[str, ApiKey]:
        """The new key, which is stored nowhere, and its record. Raises KeyExists."""
        if any(each.name == options.name for each in self.all().items):
            raise KeyExists(name=options.name)
        key, at = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES), self.now()
        record = _Record(
            **options.model_dump(),
            id=secrets.token_hex(_ID_BYTES),
            digest=digest_of(key),
            created_at=at,
            created_by=by,
            expires_at=at + expires if expires else None,
        )
        text = record.model_dump_json(exclude={"last_used_at"})
        signed = SignedRecord.of(text, id=record.digest, purpose=Purpose.API_KEY, key=signing_key).model_dump_json()
        self._run("keys/put", [keys.API_KEYS], record.digest, signed, _EPOCH_FIELD, secrets.token_hex(16))
        return key, _listed(record, None)

    def find(self, digest: str) -> tuple[ApiKey | None, str]:
        """The verified record of a key, and the epoch of all keys: a new one means that Redis has lost its data."""
        text, epoch = self._run("keys/find", [keys.API_KEYS], digest, _EPOCH_FIELD, MAX_RECORD_BYTES)
        return self._verified(digest, text) if text else None, epoch

    def all(self) -> StoredKeys:
        used, records = self._records()
        known = [_listed(record, used.get(record.id)) for record in records if record is not None]
        return StoredKeys(sorted(known, key=lambda key: (key.name, key.created_at)), records.count(None))

    def revoke(self, name: str) -> None:
        """Deletes the key: every node refuses it within a second. Raises UnknownKey."""
        _, records = self._records()
        named = [record for record in records if record is not None and record.name == name]
        if not named:
            raise UnknownKey(name=name)
        self._redis.hdel(keys.API_KEYS, *(record.digest for record in named))
        with suppress(AimaError):  # the time of its last use is for people
            self._redis.hdel(keys.API_KEYS_USED, *(record.id for record in named))

    def record_use(self, key: ApiKey) -> None:
        self._redis.hset(keys.API_KEYS_USED, key.id, self.now().isoformat(timespec="seconds"))

    def _records(self) -> tuple[dict[str, str], list[_Record | None]]:
        where = [keys.API_KEYS, keys.API_KEYS_USED]
        stored, used = self._run("keys/list", where, _EPOCH_FIELD, MAX_RECORD_BYTES)
        return pairs(used), [self._verified(digest, text) for digest, text in pairs(stored).items()]

    def _verified(self, digest: str, text: str) -> _Record | None:
        """None for a record that was forged, that belongs to another digest, or that this version cannot read."""
        try:
            signed = SignedRecord.model_validate_json(text)
            record = _Record.model_validate_json(signed.verified(self._trusted, id=digest, purpose=Purpose.API_KEY))
        except (ValidationError, BadSignature):
            return None
        return record if hmac.compare_digest(record.digest, digest) else None


@dataclass(frozen=True)
class _Decision:
    key: ApiKey
    epoch: str
    confirmed_at: float
    use_recorded_at: float


class KeyCache:
    """Decides whether a key is valid; used by API nodes and gateways, from several threads.

    Only valid keys are cached, so an unknown key costs a lookup and no memory.
    """

    def __init__(self, store: KeyStore, *, keys_for: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._keys_for = keys_for.total_seconds()
        self._clock = clock
        self._decisions: OrderedDict[str, _Decision] = OrderedDict()
        self._redis_answers = True
        self._trying = Lock()

    def confirmed(self, digest: str) -> ApiKey | None:
        """The key's record if it needs no lookup, which may block. Raises Unauthorized if the key has expired."""
        decision = self._decisions.get(digest)
        if decision is None or self._clock() - decision.confirmed_at > CONFIRM_INTERVAL.total_seconds():
            return None
        return self._unexpired(decision.key)

    def check(self, digest: str) -> ApiKey:
        """The key's record. Raises Unauthorized, BrokerUnavailable for a key that is not cached."""
        held = self._held(digest)
        if held is None or self._redis_answers:
            return self._unexpired(self._look_up(digest, held))
        # While Redis is away, one caller at a time waits for it; the others use their cached decisions.
        if not self._trying.acquire(blocking=False):
            return self._unexpired(held.key)
        try:
            return self._unexpired(self._look_up(digest, held))
        finally:
            self._trying.release()

    def _look_up(self, digest: str, held: _Decision | None) -> ApiKey:
        began = self._clock()
        try:
            key, epoch = self._store.find(digest)
        except BrokerUnavailable:
            self._redis_answers = False
            if held is None:
                raise
            return held.key
        self._redis_answers = True
        if key is None:
            if held is not None and epoch != held.epoch:
                return held.key  # Redis has lost its data, which revokes no key
            self._decisions.pop(digest, None)
            raise Unauthorized(what="an unknown or revoked one")
        used_at = held.use_recorded_at if held else float("-inf")
        if began - used_at >= USE_INTERVAL.total_seconds():
            with suppress(AimaError):  # for people only
                self._store.record_use(key)
            used_at = began
        self._decisions[digest] = _Decision(key, epoch, began, used_at)
        self._decisions.move_to_end(digest)
        if len(self._decisions) > MOST_CACHED:
            self._decisions.popitem(last=False)
        return key

    def _held(self, digest: str) -> _Decision | None:
        decision = self._decisions.get(digest)
        return decision if decision and self._clock() - decision.confirmed_at < self._keys_for else None

    def _unexpired(self, key: ApiKey) -> ApiKey:
        if key.expires_at is not None and key.expires_at <= self._store.now():
            raise Unauthorized(what=f"one that expired at {key.expires_at.isoformat(timespec='seconds')}")
        return key


def _listed(record: _Record, used_at: str | None) -> ApiKey:
    return ApiKey(**record.model_dump(exclude={"digest", "last_used_at"}), last_used_at=_moment(used_at or ""))


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def digest_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()
