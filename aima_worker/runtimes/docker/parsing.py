"""Translates the engine's answers into our types and errors. Pure, except for the free disk space."""

import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from docker_image.digest import InvalidDigest
from docker_image.reference import InvalidReference, Reference

from aima_core.domain.hosts import ImageOnHost
from aima_core.errors import EngineRefused
from aima_worker.runtime import Container, ImageFacts, RuntimeFacts, Status

NONE = "<none>"
"""The engine's placeholder for a missing repository, tag or digest."""
NEVER = "0001-"
"""The beginning of the engine's zero time."""
_ALIVE = {"running", "paused", "restarting"}
_FRACTION = re.compile(r"(\.\d{6})\d*")


def container_inspected(raw: Mapping[str, Any], *, local: bool) -> Container:
    """From `GET /containers/<id>/json`; `local` if the engine's processes are on this machine."""
    state, config = raw["State"], raw["Config"]
    status = _status(state["Status"])
    return Container(
        id=raw["Id"],
        name=raw["Name"].removeprefix("/"),
        status=status,
        labels=config["Labels"] or {},
        image=config["Image"],
        image_id=raw["Image"],
        started_at=None if state["StartedAt"].startswith(NEVER) else moment(state["StartedAt"]),
        exit_code=state["ExitCode"] if status is Status.EXITED else None,
        oom_killed=bool(state["OOMKilled"]),
        host_ports={
            int(inside.partition("/")[0]): int(outside[0]["HostPort"])
            for inside, outside in (raw["HostConfig"]["PortBindings"] or {}).items()
            if outside and outside[0]["HostPort"]
        },
        pid=state["Pid"] or None if local else None,
    )


def container_listed(raw: Mapping[str, Any]) -> Container:
    """From one entry of `GET /containers/json`, which lacks the start time and the exit code."""
    return Container(
        id=raw["Id"],
        name=raw["Names"][0].removeprefix("/"),
        status=_status(raw["State"]),
        labels=raw["Labels"] or {},
        image=raw["Image"],
        image_id=raw["ImageID"],
        host_ports={port["PrivatePort"]: port["PublicPort"] for port in raw["Ports"] if "PublicPort" in port},
        written=raw.get("SizeRw"),
    )


def image_inspected(raw: Mapping[str, Any], *, image: str) -> ImageFacts:
    """From `GET /images/<name>/json`; of an image that is named by its id, the digest of any of its repositories."""
    digests = dict(each.rsplit("@", 1) for each in raw.get("RepoDigests") or [])
    try:
        digest = digests.get(image_name(image).repository)
    except ValueError:
        digest = next(iter(digests.values()), None)
    return ImageFacts(
        id=raw["Id"],
        digest=digest,
        arch=raw["Architecture"],
        size=raw["Size"],
    )


def images_listed(raw: Iterable[Mapping[str, Any]]) -> list[ImageOnHost]:
    """From `GET /images/json`: one entry per tag."""
    newest_first = sorted(raw, key=lambda image: image["Created"], reverse=True)
    return [reference for image in newest_first for reference in _references(image)]


def moment(text: str) -> datetime:
    """The engine's time, with nanoseconds cut to microseconds."""
    return datetime.fromisoformat(_FRACTION.sub(r"\1", text)).astimezone(UTC)


def _references(image: Mapping[str, Any]) -> list[ImageOnHost]:
    """Its tags; without any, its digest, by which it was pulled."""
    tags = [tag for tag in image["RepoTags"] or () if not tag.startswith(NONE)]
    digests = dict(each.rsplit("@", 1) for each in image["RepoDigests"] or () if not each.startswith(NONE))
    by_tag = {tag: digests.get(tag.rpartition(":")[0]) for tag in tags}
    references = by_tag or {f"{name}@{digest}": digest for name, digest in digests.items()}
    id, size = image["Id"], image["Size"]
    return [ImageOnHost(reference=each, digest=digest, id=id, size=size) for each, digest in references.items()]


def _status(word: str) -> Status:
    if word == "created":
        return Status.CREATED
    return Status.RUNNING if word in _ALIVE else Status.EXITED


def engine_refused(words: str, *, status: int | None = None) -> EngineRefused:
    """With the HTTP status among its facts, for callers that decide on it."""
    refused = EngineRefused(runtime="Docker Engine", detail=words)
    refused.facts["status"] = status
    return refused


def lacks_quotas(refused: EngineRefused) -> bool:
    """Whether a storage option was refused. The engine has no code for it, so its words are matched."""
    return any(sign in str(refused.facts["detail"]).lower() for sign in ("storage-opt", "storage opt"))


GPU_HOOK = "nvidia-container-runtime-hook"
"""An engine that found this program at its last restart can give GPUs to containers."""
SHIMS_OF_RUNC = {"io.containerd.runc.v2", "io.containerd.runtime.v1.linux"}
"""The engine lists these duplicates of `runc`."""
CONTAINERD_ROOT = Path("/var/lib/containerd")


def facts_of(
    info: Mapping[str, Any], *, kind: Literal["docker", "docker-cli"], local: bool, may_filter: bool
) -> RuntimeFacts:
    """From `GET /info`; `local` if the engine's files are on this machine."""
    runtimes, devices = info.get("Runtimes") or {}, info.get("DiscoveredDevices") or []
    disks = _disks(info) if local else []
    has_gpus = "nvidia" in runtimes or any("nvidia.com/gpu" in str(device.get("ID")) for device in devices)
    return RuntimeFacts(
        kind=kind,
        version=info["ServerVersion"],
        gpus=has_gpus or (local and shutil.which(GPU_HOOK) is not None),
        container_runtimes=tuple(sorted(set(runtimes) - SHIMS_OF_RUNC)),
        disk_free=min(map(_free, disks), default=None),
        disks=tuple(map(str, disks)),
        isolates_engines=may_filter,
        live_restore=bool(info.get("LiveRestoreEnabled")),
    )


def _disks(info: Mapping[str, Any]) -> list[Path]:
    roots = [Path(info["DockerRootDir"])]
    if any("containerd.snapshotter" in str(each) for each in info.get("DriverStatus") or []):
        roots.append(CONTAINERD_ROOT)
    return [root for root in roots if root.exists()]


def _free(directory: Path) -> int:
    usage = os.statvfs(directory)
    return usage.f_bavail * usage.f_frsize


def first_uid(info: Mapping[str, Any]) -> int:
    """The host's uid of root in containers: 0, unless the engine maps users, and then its directory is named by it."""
    mapped = re.search(r"/(\d+)\.\d+/?$", info["DockerRootDir"])
    return int(mapped[1]) if mapped and "name=userns" in (info.get("SecurityOptions") or []) else 0


def uid_in(archive: bytes, user: str) -> int | None:
    """The uid of a user of an image, from the archive of its /etc/passwd; None if it has no such user."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(tar.getmembers()[0])
        lines = file.read().decode(errors="replace").splitlines() if file else []
    entries = (line.split(":") for line in lines if line.startswith(f"{user}:"))
    return next((int(entry[2]) for entry in entries if entry[2:3] and entry[2].isdecimal()), None)


@dataclass(frozen=True)
class ImageName:
    registry: str
    """`docker.io` where none is named."""
    repository: str
    """In the engine's short form: `busybox`, not `docker.io/library/busybox`."""
    version: str
    """The digest if there is one, since it is more specific than a tag; else the tag, else `latest`."""


def image_name(image: str) -> ImageName:
    """Raises ValueError if `image` is an id or malformed."""
    try:
        reference = Reference.parse_normalized_named(image)
    except (InvalidReference, InvalidDigest) as bad:
        raise ValueError(str(bad)) from bad
    repository = Reference.parse_normalized_named(reference["name"])
    return ImageName(
        registry=repository.domain(),
        repository=repository.familiar_name(),
        version=reference["digest"] or reference["tag"] or "latest",
    )
