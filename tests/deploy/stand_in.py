"""A replacement for `python:3.11-slim` and `redis:7-alpine` where no public registry is reachable.

Built in seconds from packages of this machine's distribution; it stays as a cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

import docker
from lab.cell import require_root
from lab.parts import missing

IMAGE = "aima-lab/python-and-redis:1"
PACKAGES = (
    *("python3-minimal", "libpython3-stdlib", "python3-pip", "redis-server"),
    *("ca-certificates", "base-files", "coreutils", "grep", "bash", "dash"),
)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT = {
    "SSL_CERT_FILE": str(CERTIFICATES),  # this machine's, which may include a private authority
    "PIP_CERT": str(CERTIFICATES),
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # Debian's Python refuses installations; the real image's accepts them
}
PASSED_ON = ("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "UV_DEFAULT_INDEX", "http_proxy", "https_proxy", "no_proxy")
"""This machine's configuration for PyPI."""


def stand_in() -> str:
    """Builds the image if it is missing; returns its name."""
    with closing(docker.from_env()) as client:
        if not client.images.list(IMAGE):
            _make(client)
    return IMAGE


def _make(client: docker.DockerClient) -> None:
    require_root("mmdebstrap")
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / "base.tar"
        included = f"--include={','.join(PACKAGES)}"
        variant = ["--variant=extract", included, release_of_this_machine(), str(archive)]
        made = subprocess.run(["mmdebstrap", "--quiet", *variant])
        if made.returncode:
            missing("mmdebstrap cannot reach this distribution's packages")
        with tarfile.open(archive, "a") as tar:
            tar.add(CERTIFICATES, f".{CERTIFICATES}")
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        changes = [f"ENV {name}={value}" for name, value in (ENVIRONMENT | passed_on).items()]
        repository, _, tag = IMAGE.rpartition(":")
        client.api.import_image_from_file(str(archive), repository=repository, tag=tag, changes=changes)


def release_of_this_machine() -> str:
    reported = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if "VERSION_CODENAME" not in reported or shutil.which("apt-get") is None:
        missing("the stand-in for python:3.11-slim is made on Debian and Ubuntu only")
    return reported["VERSION_CODENAME"].strip('"')
