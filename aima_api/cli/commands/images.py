"""`aima image …`"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from aima_api.cli.options import (
    ResourceGroup,
    calls_the_api,
    complete,
    engine_option,
    expires_option,
    hosts_option,
    lists,
    only_hosts_option,
    route_option,
    submits_operations,
)
from aima_api.cli.service_options import service_body
from aima_api.cli.tables import RecordList, titled
from aima_api.client import Api

image = ResourceGroup("image", help="List, pull and remove the images of hosts.")

_DIGEST = len("sha256:") + 12
"""Characters of a digest that identify it on a host."""


@image.command("list")
@click.option("--host", metavar="H", shell_complete=complete(("hosts", "name")), help="Only those on this host.")
@lists
@calls_the_api
def list_images(api: Api, host: str | None) -> RecordList:
    """List the images on the hosts, as these last announced them.

    A digest is `unresolved` if the image was built or loaded on the host. OUTDATED names instances that still run an
    earlier image of the same reference.
    """
    images = api.every("/v1/images", host=host)
    columns = titled("image", "host", "size", "digest", "used_by")
    if any(each["outdated"] for each in images):
        columns |= titled("outdated")
    return RecordList(images, columns, "No images.", row=_row, wide=titled("engines", "id"))


@image.command()
@click.argument("image", metavar="[IMAGE]", required=False)
@engine_option("The image of this engine.")
@only_hosts_option
@route_option("On every live host of this class, such as gb10.arm64.")
@click.option("--force", is_flag=True, help="Ask the registry although the image is there: a tag may have moved.")
@expires_option
@submits_operations
def pull(
    api: Api,
    image: str | None,
    engine: str | None,
    hosts: tuple[str, ...],
    route: str | None,
    force: bool,
    expires: timedelta | None,
) -> Any:
    """Pull IMAGE, or the image of an engine, on several hosts in parallel.

    Without --host or --route, an engine's image is pulled on every live host that can run the engine, and another
    IMAGE on the only live host. If one of the given hosts cannot have it, nothing is pulled.
    """
    if (image is None) == (engine is None):
        raise click.UsageError("Specify IMAGE or --engine.", click.get_current_context())
    if hosts and route:
        raise click.UsageError("Specify --host or --route.", click.get_current_context())
    options = {"image": image, "engine": engine, "hosts": hosts, "route": route, "force": force or None}
    return api.post("/v1/images:pull", service_body({**options, "expires": expires}))


@image.command()
@click.argument("images", metavar="[IMAGE]...", nargs=-1, shell_complete=complete(("images", "reference")))
@click.option("--unused", is_flag=True, help="Those of the catalog that nothing uses and that can be pulled again.")
@hosts_option("Only from this host; repeat for several.")
@expires_option
@submits_operations
def remove(api: Api, images: tuple[str, ...], unused: bool, hosts: tuple[str, ...], expires: timedelta | None) -> Any:
    """Remove images from the hosts, by default from every live host that has them.

    An image that an instance or another container uses is not removed. Images that the catalog does not name, and those
    that are built on the hosts, are removed only if they are named as `aima image list` shows them.
    """
    if bool(images) == unused:
        raise click.UsageError("Specify IMAGE or --unused.", click.get_current_context())
    options = {"images": images, "unused": unused or None, "hosts": hosts, "expires": expires}
    return api.post("/v1/images:remove", service_body(options))


def described(image: dict[str, Any]) -> str:
    """`repo/name:1 (sha256:0123456789ab, 25 GB, used by svc-…@host)`."""
    digest = [_digest(image)] if "@" not in image["reference"] else []
    users = [f"{words} {', '.join(image[field])}" for field, words in _USERS.items() if image.get(field)]
    facts = ", ".join([*digest, *_size(image), *users])
    return f"{image['reference']} ({facts})" if facts else image["reference"]


_USERS = {"used_by": "used by", "outdated": "an earlier one is run by"}


def _row(image: dict[str, Any]) -> dict[str, Any]:
    return {**image, "image": image["reference"], "size": next(iter(_size(image)), None), "digest": _digest(image)}


def _digest(image: dict[str, Any]) -> str:
    from aima_core.domain.catalog import UNRESOLVED

    return image["digest"][:_DIGEST] if image["digest"] else UNRESOLVED


def _size(image: dict[str, Any]) -> list[str]:
    from aima_core.domain.units import format_size

    return [format_size(image["size"])] if image.get("size") else []
