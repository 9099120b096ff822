"""The models of hosts as they last announced them: those of their stores, and directories below their model roots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import AwareDatetime, BaseModel

from aima_api.catalog.selection import Catalog
from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName, InstanceId, ModelId
from aima_core.domain.services import GONE, Instance
from aima_core.store.services import ServiceStore


class HostModel(BaseModel):
    host: HostName
    model: ModelId | None
    """None for a directory that no model of the catalog names."""
    where: Literal["store", "path"]
    name: str
    """Of its directory: in the store, or relative to a model root."""
    revision: str | None
    """None for files that people put there."""
    size: int | None
    received: int | None
    published: bool
    """Engines may read it."""
    verified: bool
    """Every file has the digest of its manifest."""
    used_by: tuple[InstanceId, ...]
    used_at: AwareDatetime | None = None
    """When an engine last had it mounted, within minutes; None if none has."""
    pinned: bool = False
    """It is neither collected nor removed."""


def models_of_hosts(hosts: Iterable[Host], services: ServiceStore, catalog: Catalog) -> Iterator[HostModel]:
    """By host, then those of the store by model. Raises BrokerUnavailable."""
    paths = {model.path: model.id for model in catalog.models if model.path}
    for host in sorted(hosts, key=lambda each: each.name):
        up = [each for each in services.instances_on(host.name) if each.state not in GONE]
        for stored in host.stored or ():
            users = _users(up, stored.model) if stored.verified else ()
            facts = stored.model_dump(exclude={"model"})
            yield HostModel(host=host.name, model=stored.model, where="store", used_by=users, **facts)
        complete = {each.model for each in host.stored or () if each.verified}
        for path in host.models or ():
            model = paths.get(path)
            users = _users(up, model) if model and model not in complete else ()
            nothing = dict.fromkeys(("revision", "size", "received"))
            yield HostModel(
                host=host.name,
                model=model,
                where="path",
                name=path,
                published=True,
                verified=False,
                used_by=users,
                **nothing,
            )


def _users(up: Sequence[Instance], model: ModelId) -> tuple[InstanceId, ...]:
    return tuple(sorted(each.id for each in up if each.model == model))
