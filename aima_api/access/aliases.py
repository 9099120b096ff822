"""Aliases: names of models for applications, which spread requests over services by weight.

An alias is a signed record: a writer in Redis can delete one, but can neither forge one nor lead it elsewhere. Gateways
read all aliases at once, and keep the last ones while Redis does not answer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import AwareDatetime, ValidationError

from aima_core.domain.ids import ServiceId, WireModel
from aima_core.errors import BadSignature, UnknownAlias
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.readable import replies
from aima_core.trust.keys import KeyRing, Purpose, SigningKey
from aima_core.trust.records import SignedRecord

MAX_RECORD_BYTES = 16_384

Pools = tuple[tuple[str, ...], ...]


class Alias(WireModel):
    name: str
    targets: Mapping[ServiceId, int]
    fallback: tuple[ServiceId, ...] = ()
    owner: str | None = None
    """Of the documents that set it."""
    changed_at: AwareDatetime
    changed_by: str
    """The name of the API key with which it was set."""

    @property
    def content(self) -> dict[str, Any]:
        """What a document says of it, as JSON."""
        given = self.model_dump(mode="json", include={"targets", "fallback", "owner"})
        return {field: value for field, value in given.items() if value}


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

    def put(self, alias: Alias, signing_key: SigningKey) -> None:
        """Replaces the alias of this name, if there is one."""
        signed = SignedRecord.of(alias.model_dump_json(), id=alias.name, purpose=Purpose.ALIAS, key=signing_key)
        self._redis.hset(keys.ALIASES, alias.name, signed.model_dump_json())

    def find(self, name: str) -> Alias | None:
        """None also for a record that does not verify."""
        record = self._redis.hget(keys.ALIASES, name)
        return self._verified(name, record) if record is not None else None

    def get(self, name: str) -> Alias:
        """Raises UnknownAlias, also for a record that does not verify."""
        if (alias := self.find(name)) is None:
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
