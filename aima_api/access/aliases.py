"""Aliases: names of models for applications, which spread requests over services by weight.

An alias is a signed record: a writer in Redis can delete one, but can neither forge one nor lead it elsewhere. Gateways
read all aliases at once, and keep the last ones while Redis does not answer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from aima_core.domain.ids import ServiceId, WireModel
from aima_core.errors import BadSignature, UnknownAlias
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.operations import now
from aima_core.store.readable import replies
from aima_core.trust.keys import KeyRing, Purpose, SigningKey
from aima_core.trust.records import SignedRecord

MAX_WEIGHT = 1_000_000
MAX_TARGETS = 32
MAX_RECORD_BYTES = 16_384

AliasName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._:/@+-]{0,126}[A-Za-z0-9])?$"),
    Field(examples=["gpt-4o"]),
]
"""As applications write it in `model`, such as `gpt-4o` or `Qwen/Qwen3-32B`."""
Weight = Annotated[int, Field(ge=0, le=MAX_WEIGHT)]
Targets = Annotated[dict[ServiceId, Weight], Field(min_length=1, max_length=MAX_TARGETS)]
Fallback = Annotated[tuple[ServiceId, ...], Field(max_length=MAX_TARGETS)]


Pools = tuple[tuple[str, ...], ...]


class AliasTargets(BaseModel):
    """Where the requests for an alias go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: Targets
    """Services by weight: each gets its share of the requests, and one of weight 0 none."""
    fallback: Fallback = ()
    """Services that get a request while none of the targets can take it, in order."""

    @model_validator(mode="after")
    def check_targets(self) -> AliasTargets:
        if not any(self.targets.values()):
            raise ValueError("has only targets of weight 0, which get no requests; give one a weight")
        named = [service for service, weight in self.targets.items() if weight] + list(self.fallback)
        if len(set(named)) < len(named):
            raise ValueError("names a service twice; name it as a target or as a fallback")
        return self

    @property
    def services(self) -> tuple[ServiceId, ...]:
        return tuple(dict.fromkeys([*self.targets, *self.fallback]))


class Alias(WireModel):
    name: str
    targets: Mapping[ServiceId, int]
    fallback: tuple[ServiceId, ...] = ()
    changed_at: AwareDatetime
    changed_by: str
    """The name of the API key with which it was set."""


class StoredAliases(NamedTuple):
    items: list[Alias]
    """By name."""
    unverified: int
    """Records that were skipped: forged, unreadable, or signed by a key that is no longer trusted."""


class AliasStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis, trusted: KeyRing) -> None:
        self._redis = redis
        self._trusted = trusted

    def set(self, name: str, to: AliasTargets, *, by: str, signing_key: SigningKey) -> Alias:
        """Replaces the alias, if there is one."""
        alias = Alias(name=name, **dict(to), changed_at=now(), changed_by=by)
        signed = SignedRecord.of(alias.model_dump_json(), id=name, purpose=Purpose.ALIAS, key=signing_key)
        self._redis.hset(keys.ALIASES, name, signed.model_dump_json())
        return alias

    def get(self, name: str) -> Alias:
        """Raises UnknownAlias, also for a record that does not verify."""
        record = self._redis.hget(keys.ALIASES, name)
        if record is None or (alias := self._verified(name, record)) is None:
            raise UnknownAlias(alias=name)
        return alias

    def remove(self, name: str) -> None:
        """Raises UnknownAlias."""
        if not self._redis.hdel(keys.ALIASES, name):
            raise UnknownAlias(alias=name)

    def all(self) -> StoredAliases:
        return self.read()[1]

    def read(self) -> tuple[str | None, StoredAliases]:
        """All aliases, with the id of the data set that Redis holds."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.get(keys.EPOCH)
            pipe.hgetall(keys.ALIASES)
            epoch, records = replies(pipe)  # another type, which another writer made, counts as none
        found = [self._verified(name, record) for name, record in (records or {}).items()]
        known = sorted((alias for alias in found if alias is not None), key=lambda alias: alias.name)
        return epoch, StoredAliases(known, found.count(None))

    def _verified(self, name: str, record: str) -> Alias | None:
        """None for a record that was forged, that belongs to another name, or that this version cannot read."""
        if len(record) > MAX_RECORD_BYTES:
            return None
        try:
            text = SignedRecord.model_validate_json(record).verified(self._trusted, id=name, purpose=Purpose.ALIAS)
            alias = Alias.model_validate_json(text)
        except (ValidationError, BadSignature):
            return None
        return alias if alias.name == name else None


class WeightedChoice:
    """Smooth weighted round robin: as many choices as the weights add up to have the exact shares, well mixed."""

    def __init__(self, weights: Mapping[ServiceId, int]) -> None:
        self._weights = {target: weight for target, weight in weights.items() if weight > 0}
        self._credit = dict.fromkeys(self._weights, 0)
        self._total = sum(self._weights.values())

    def order(self) -> tuple[ServiceId, ...]:
        """The target whose turn it is, then the others by descending weight."""
        for target, weight in self._weights.items():
            self._credit[target] += weight
        chosen = max(self._credit, key=self._credit.__getitem__)
        self._credit[chosen] -= self._total
        others = sorted(self._weights.keys() - {chosen}, key=lambda target: (-self._weights[target], target))
        return (chosen, *others)


class NameResolver:
    """Resolves the names in requests to services: an alias goes before a service's id, and that before a model's.

    Holds the aliases as they were last read, and whose turn it is; for one thread.
    """

    def __init__(self) -> None:
        self._aliases: dict[str, tuple[Alias, WeightedChoice]] = {}

    @property
    def aliases(self) -> list[Alias]:
        return [alias for alias, _ in self._aliases.values()]

    def replace(self, aliases: Iterable[Alias]) -> None:
        """An alias that has not changed keeps its turn."""
        known = self._aliases
        self._aliases = {
            each.name: known[each.name]
            if each.name in known and known[each.name][0] == each
            else (each, WeightedChoice(each.targets))
            for each in aliases
        }

    def resolve(self, name: str, *, services: Container[str], models: Mapping[str, Sequence[str]]) -> Pools:
        """The pools of services that may answer, each for when those before it cannot; empty for an unknown name.

        `services` are the ones that count, and `models` the services of each model id.
        """
        if found := self._aliases.get(name):
            alias, choice = found
            return tuple((service,) for service in (*choice.order(), *alias.fallback))
        if name in services:
            return ((name,),)
        of_model = models.get(name.lower(), ())
        return (tuple(of_model),) if of_model else ()
