"""From what the engine says, in JSON, to the nouns of `aima_worker.runtime`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from aima_core.domain.services import ImageOnHost
from aima_worker.runtime import Container, ImageFacts, Status

NONE = "<none>"
"""What the engine calls a repository, tag or digest that is not there."""
_NEVER_STARTED = {"created"}
_ALIVE = {"running", "paused", "restarting"}
_FRACTION = re.compile(r"(\.\d{6})\d*")


def container_inspected(said: Mapping[str, Any]) -> Container:
    """From `GET /containers/<id>/json`."""
    state, config = said["State"], said["Config"]
    status = _status(state["Status"])
    return Container(
        id=said["Id"],
        name=said["Name"].removeprefix("/"),
        status=status,
        labels=config["Labels"] or {},
        image=config["Image"],
        started_at=moment(state["StartedAt"]),
        exit_code=state["ExitCode"] if status is Status.EXITED else None,
        oom_killed=bool(state["OOMKilled"]),
        host_ports={
            int(inside.partition("/")[0]): int(outside[0]["HostPort"])
            for inside, outside in (said["HostConfig"]["PortBindings"] or {}).items()
            if outside and outside[0]["HostPort"]
        },
    )


def container_listed(said: Mapping[str, Any]) -> Container:
    """From one entry of `GET /containers/json`, which does not say when it started nor how it ended."""
    return Container(
        id=said["Id"],
        name=said["Names"][0].removeprefix("/"),
        status=_status(said["State"]),
        labels=said["Labels"] or {},
        image=said["Image"],
        host_ports={port["PrivatePort"]: port["PublicPort"] for port in said["Ports"] if "PublicPort" in port},
    )


def image_inspected(said: Mapping[str, Any], *, repository: str | None) -> ImageFacts:
    """From `GET /images/<name>/json`; the digest is that of `repository`, if the image came from there."""
    digests = dict(each.rsplit("@", 1) for each in said.get("RepoDigests") or [])
    return ImageFacts(
        id=said["Id"],
        digest=digests.get(repository or "") or next(iter(digests.values()), None),
        arch=said["Architecture"],
        size=said["Size"],
    )


def images_listed(said: Iterable[Mapping[str, Any]]) -> list[ImageOnHost]:
    """From `GET /images/json`: an image of several tags is there under each."""
    newest_first = sorted(said, key=lambda image: image["Created"], reverse=True)
    return [reference for image in newest_first for reference in _references(image)]


def images_printed(rows: Iterable[Mapping[str, str]]) -> list[ImageOnHost]:
    """From the rows of `docker images --digests`, newest first as they are: one for each tag and each digest."""
    listed: dict[str, ImageOnHost] = {}
    for row in rows:
        repository, tag, digest = row["Repository"], row["Tag"], _none(row["Digest"])
        reference = f"{repository}@{digest}" if tag == NONE else f"{repository}:{tag}"
        if repository != NONE and (digest or tag != NONE):
            listed.setdefault(reference, ImageOnHost(reference=reference, digest=digest))
    return list(listed.values())


def container_changed(event: bytes) -> str:
    """The container's name, from one event of `GET /events`."""
    return str(json.loads(event).get("Actor", {}).get("Attributes", {}).get("name", ""))


def moment(text: str) -> datetime | None:
    """The engine's time, whose nanoseconds Python does not know; None for its zero, which means never."""
    if text.startswith("0001-"):
        return None
    return datetime.fromisoformat(_FRACTION.sub(r"\1", text)).astimezone(UTC)


def _references(image: Mapping[str, Any]) -> list[ImageOnHost]:
    """Its tags; where it has none, because it was pulled by its digest, that."""
    tags = [tag for tag in image["RepoTags"] or () if not tag.startswith(NONE)]
    digests = dict(each.rsplit("@", 1) for each in image["RepoDigests"] or () if not each.startswith(NONE))
    if not tags:
        return [ImageOnHost(reference=f"{name}@{digest}", digest=digest) for name, digest in digests.items()]
    return [ImageOnHost(reference=tag, digest=digests.get(tag.rpartition(":")[0])) for tag in tags]


def _none(word: str) -> str | None:
    return None if word == NONE else word


def _status(word: str) -> Status:
    if word in _NEVER_STARTED:
        return Status.CREATED
    return Status.RUNNING if word in _ALIVE else Status.EXITED
