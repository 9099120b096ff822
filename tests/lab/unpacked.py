"""Container engines of other releases: Debian packages, unpacked into a directory and run by chroot in a cell.

The packages are those of an engine's release, whatever this machine has installed, and nothing of theirs is installed
here. A directory of one release is shared by the processes of a test run, and kept between local runs.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from lab.cell import Cell, require_root
from lab.running import ROOT

UNPACK_SECONDS = 180
_KEPT = ROOT / "var/lab"
_LINKS = {"usr/sbin/iptables": "iptables-nft", "usr/sbin/ip6tables": "ip6tables-nft", "var/run": "/run"}
"""The work of maintainer scripts, which do not run."""
_COMMON = ("base-files", "bash", "coreutils")


class Release(NamedTuple):
    """An engine as a Debian suite packages it."""

    name: str
    suite: str
    packages: tuple[str, ...]
    arch: str | None = None
    """In Debian's words; None for this machine's own."""


DOCKER_28 = Release("docker-28", suite="sid", packages=("docker.io", "iptables", "kmod"))
"""Debian's sid has Docker Engine 28 or later."""
ARM64 = Release(
    "arm64",
    suite="bookworm",
    packages=("python3-minimal", "libpython3-stdlib", "ca-certificates", "busybox-static", "tzdata"),
    arch="arm64",
)
"""A Python and a busybox."""


class Unpacked(NamedTuple):
    """A release on this disk."""

    release: Release
    root: Path

    def inside(self, cell: Cell) -> tuple[str, ...]:
        """The prefix of its programs' commands in the cell, where this mounts what they need."""
        # An engine remounts its root, which therefore must be a mount.
        cell.do("mount", "--bind", str(self.root), str(self.root))
        for name in ("proc", "sys", "dev", "run", "tmp"):
            cell.do("mount", "--rbind", f"/{name}", str(self.root / name))
        return ("chroot", str(self.root))


def engine_command(cell: Cell, home: Path, flags: Mapping[str, str], *, system: Unpacked | None) -> tuple[str, ...]:
    """The command of an engine in the cell, on `docker.sock` below `home`; None is this machine's dockerd."""
    dockerd = ("dockerd", *(f"--{name}={value}" for name, value in flags.items()))
    if system is None:
        return dockerd
    return (*system.inside(cell), *dockerd)


def unpacked(release: Release) -> Unpacked:
    """The release on this disk. Skips the test, in CI as well, if the mirror of its packages cannot be had.

    No other absent part is excused in CI: sid is a moving suite that this project does not control.
    """
    require_root("mmdebstrap", "chroot", "mount")
    kept = _KEPT / release.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _unpack(release, kept)
    return Unpacked(release, kept)


def _unpack(release: Release, kept: Path) -> None:
    partial = kept.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = (
        *("mmdebstrap", "--quiet", "--variant=extract", "--aptopt=Acquire::Check-Valid-Until false"),
        *((f"--architectures={release.arch}",) if release.arch else ()),
        *(f"--include={','.join((*release.packages, *_COMMON))}", release.suite, str(partial)),
        f"deb http://deb.debian.org/debian {release.suite} main",
    )
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=UNPACK_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failed:
        reason = (failed.stderr or str(failed)).strip()[-300:]
        pytest.skip(f"the Debian mirror does not give {release.packages[0]} of {release.suite}: {reason}")
    for link, target in _LINKS.items():
        if (partial / link).is_dir():
            shutil.rmtree(partial / link)
        (partial / link).symlink_to(target)
    partial.rename(kept)
