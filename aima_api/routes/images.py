"""Routes of images: what the hosts have, pulls, and removals of what nothing uses."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from aima_api.access.scopes import Scope
from aima_api.dependencies import Access, Api, Cursor, Dependencies, IdempotencyKey, WholeLimit
from aima_api.http.schemas import PullOptions, RemoveImages
from aima_api.planning.host_images import HostImage, images_of_hosts
from aima_api.routes.service_actions import Submitted
from aima_api.submission.images import submit_pull, submit_removal
from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Operation

router = APIRouter(prefix="/v1", tags=["images"])


class Images(BaseModel):
    items: list[HostImage]
    next: str | None


@router.get("/images")
def list_images(
    api: Api,
    host: Annotated[HostName | None, Query(description="Only those on this host.")] = None,
    limit: WholeLimit = None,
    cursor: Cursor = None,
) -> Images:
    """List the images of all hosts, by host and reference, with their digests and the instances that use them."""
    hosts = api.hosts.all() if host is None else [api.hosts.get(host)]
    every = images_of_hosts(hosts, api.services, api.catalog)
    left = [each for each in every if _place(each) > (cursor or "")]
    page = left[:limit]
    return Images(items=page, next=_place(page[-1]) if len(page) < len(left) else None)


@router.post("/images:pull", status_code=202)
def pull(api: Api, access: Access, body: PullOptions, idempotency_key: IdempotencyKey = None) -> Submitted:
    """Pull an image, or an engine's: to the hosts, to every live host of the route, or to all that may run it.

    With `force`, the registry is asked although the image is there. An image that the catalog does not name requires
    the scope `admin`.
    """
    access.target = body.image or body.engine
    if body.image is not None and not any(body.image in engine.images for engine in api.catalog.engines):
        access.caller.require(Scope.ADMIN)
    submit = partial(submit_pull, api.planner, api.submitter, body, caller=access.caller.name)
    return Submitted(operations=api.idempotency.once(idempotency_key, "pull", body, submit))


@router.post("/images:remove", status_code=202)
def remove(api: Api, access: Access, body: RemoveImages, idempotency_key: IdempotencyKey = None) -> Submitted:
    """Remove images from the hosts, or from every live host that has them; an image in use is refused.

    With `unused`, these are the images that the catalog names, that no instance uses, and that can be pulled again.
    """
    access.target = ", ".join(body.images) or "unused images"
    submit = partial(_remove, api, body, caller=access.caller.name)
    return Submitted(operations=api.idempotency.once(idempotency_key, "remove images", body, submit))


def _remove(api: Dependencies, body: RemoveImages, *, caller: str) -> list[Operation]:
    hosts: list[Host] = [each for each in api.hosts.all() if (each.name in body.hosts if body.hosts else each.live)]
    listed = list(images_of_hosts(hosts, api.services, api.catalog))
    return submit_removal(api.submitter, api.planner.placement(), listed, body, caller=caller)


def _place(image: HostImage) -> str:
    return f"{image.host} {image.reference}"
