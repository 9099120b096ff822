"""The image that the Python engines stand on, `aima/engine-base:1`: found, pulled or made.

Needed in it: python3, libstdc++ and libgomp. Where no registry can be reached, mmdebstrap makes it from the
packages of this machine's own distribution, in seconds.
"""

# ruff: noqa: T201 it speaks to whoever runs the script

import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from unpack import HERE, CannotBuild, run

BASE = "aima/engine-base:1"
PYTHON = "python:3.11-slim"
FIRST_ANSWER = 10
"""Seconds for a registry to say that it has the image; one that cannot be reached may otherwise hang for minutes."""
WHOLE_PULL = 180
PACKAGES = (
    "python3-minimal",
    "libpython3-stdlib",
    "libstdc++6",
    "libgomp1",
    "ca-certificates",
    "base-files",
    "coreutils",
    "bash",
    "dash",
)


def base_image() -> str:
    """The base's name; it is here when this returns."""
    if is_here(BASE):
        return BASE
    if is_here(PYTHON) or can_be_pulled(PYTHON):
        try:
            return from_python()
        except CannotBuild as reason:
            print(f"{PYTHON} would not do, so the base is made from packages: {reason}", flush=True)
    return from_packages()


def is_here(image: str) -> bool:
    try:
        run(["docker", "image", "inspect", image])
    except CannotBuild:
        return False
    return True


def can_be_pulled(image: str) -> bool:
    """Pull it, unless the registry is silent for FIRST_ANSWER seconds or all of it takes longer than WHOLE_PULL."""
    pull = subprocess.Popen(["docker", "pull", image], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    slow = [threading.Timer(FIRST_ANSWER, pull.kill), threading.Timer(WHOLE_PULL, pull.kill)]
    for timer in slow:
        timer.start()
    try:
        for _ in pull.stdout:
            slow[0].cancel()
        return pull.wait() == 0
    finally:
        for timer in slow:
            timer.cancel()


def from_python() -> str:
    """The Python image as it is where it has the libraries, else with them."""
    libraries = "import ctypes; [ctypes.CDLL(name) for name in ('libgomp.so.1', 'libstdc++.so.6')]"
    try:
        run(["docker", "run", "--rm", "--entrypoint", "python3", PYTHON, "-c", libraries])
        run(["docker", "tag", PYTHON, BASE])
    except CannotBuild:
        recipe = (HERE / "base.Dockerfile").read_bytes()
        command = ["docker", "build", "--network", "host", "--tag", BASE, "--build-arg", f"PYTHON={PYTHON}", "-"]
        built = subprocess.run(
            command,
            input=recipe,
            env=os.environ | {"DOCKER_BUILDKIT": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        if built.returncode:
            raise CannotBuild(built.stderr.decode(errors="replace").strip()[-300:]) from None
    return BASE


def from_packages() -> str:
    if not shutil.which("mmdebstrap"):
        run([*as_root(), "apt-get", "install", "--yes", "--no-install-recommends", "mmdebstrap"])
    print(f"making {BASE} from the packages of {release()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="aima-base-") as directory:
        archive = Path(directory) / "base.tar"
        # Without root it wants user namespaces, which many machines deny.
        privileged = as_root() if shutil.which("sudo") else []
        run(
            [*privileged, "mmdebstrap", "--variant=extract", f"--include={','.join(PACKAGES)}", release(), str(archive)]
        )
        run(["docker", "import", "--change", 'CMD ["python3"]', str(archive), BASE])
    return BASE


def release() -> str:
    """This distribution's code name, such as `bookworm`."""
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    raise CannotBuild(f"this is neither Debian nor Ubuntu; pull {PYTHON}, or name a base with --base")


def as_root() -> list[str]:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise CannotBuild("packages are missing that only root may install, and there is no sudo; run this as root once")
