"""The images of hosts as they last announced them, with the instances that use them.

A reference that names another image than before has moved: instances that run the earlier one are listed as outdated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel

from aima_api.catalog.selection import Catalog
from aima_core.domain.hosts import Host, ImageOnHost
from aima_core.domain.ids import EngineName, HostName, InstanceId
from aima_core.domain.services import GONE, Instance
from aima_core.store.services import ServiceStore


class HostImage(BaseModel):
    host: HostName
    reference: str
    id: str | None
    digest: str | None
    """In its registry; None if it is unresolved, since the image was built or loaded on the host."""
    size: int | None
    """Bytes on disk, layers that other images share included."""
    engines: tuple[EngineName, ...]
    """Engines of the catalog that name it."""
    used_by: tuple[InstanceId, ...]
    outdated: tuple[InstanceId, ...]
    """Instances of this reference that run an earlier image: it has moved since they started."""
    can_be_pulled_again: bool
    """The catalog names it, and no engine has it built on the hosts."""


def images_of_hosts(hosts: Iterable[Host], services: ServiceStore, catalog: Catalog) -> Iterator[HostImage]:
    """By host and reference. Raises BrokerUnavailable."""
    for host in sorted(hosts, key=lambda each: each.name):
        up = [each for each in services.instances_on(host.name) if each.state not in GONE]
        for image in sorted(host.images, key=lambda each: each.reference):
            yield _host_image(host.name, image, up, catalog)


def _host_image(host: HostName, image: ImageOnHost, up: Sequence[Instance], catalog: Catalog) -> HostImage:
    engines = [engine for engine in catalog.engines if image.reference in engine.images]
    outdated = [each.id for each in up if each.image == image.reference and _differ(each, image)]
    by_id = [each.id for each in up if each.image_id is not None and each.image_id == image.id]
    by_name = [each.id for each in up if each.image == image.reference and each.id not in outdated]
    return HostImage(
        host=host,
        reference=image.reference,
        id=image.id,
        digest=image.digest,
        size=image.size,
        engines=tuple(engine.name for engine in engines),
        used_by=tuple(sorted({*by_id, *by_name})),
        outdated=tuple(sorted(outdated)),
        can_be_pulled_again=bool(engines) and all(engine.pull != "never" for engine in engines),
    )


def _differ(instance: Instance, image: ImageOnHost) -> bool:
    return None not in (instance.image_id, image.id) and instance.image_id != image.id
