"""Programs of arm64 on this machine: qemu's user mode, registered with the kernel until the block ends.

The registration is the machine's, so other processes can run arm64 programs meanwhile. A process outside the tests
removes it, also when the tests are killed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

from lab.cell import Cell, require_root
from lab.images import one_layer_archive, tar_of
from lab.parts import missing
from lab.running import ROOT
from lab.unpacked import ARM64, Unpacked, unpacked

QEMU = "qemu-aarch64-static"
_FORMAT = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
_HERE = "/opt/aima"
_REGISTER = """
set -eu
at=$(mktemp -d)
mount -t binfmt_misc binfmt_misc "$at"
trap 'echo -1 >"$at/$0"; umount "$at"; rmdir "$at"' EXIT
printf %s "$1" >"$at/register"
echo registered
cat  # ends with whoever holds the other end
"""


@contextmanager
def emulation() -> Iterator[None]:
    """The kernel runs arm64 programs. Skips the test where that cannot be had."""
    require_root("mount", "umount")
    if shutil.which(QEMU) is None or not _FORMAT.exists():
        missing(f"there is no {QEMU}; `apt-get install qemu-user-static` brings it")
    name = f"aima-lab-{uuid.uuid4().hex[:12]}"
    # Debian's own line: its flag F opens qemu now, so that containers and chroots need no copy of it.
    line = re.sub(r"^:[^:]*", f":{name}", _FORMAT.read_text().strip())
    keeper = subprocess.Popen(
        ["sh", "-c", _REGISTER, name, line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert keeper.stdout is not None
    with keeper.stdout:
        registered = keeper.stdout.readline() == "registered\n"
    try:
        if not registered:
            missing("the kernel takes no binary format; `mount -t binfmt_misc` tells why")
        yield
    finally:
        keeper.communicate()


def dial_archive(name: str) -> bytes:
    """The dial engine's image for arm64: a busybox of that architecture, and the program."""
    busybox = unpacked(ARM64).root / "bin/busybox"
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer = tar_of(
        [
            ("bin/busybox", busybox.read_bytes()),
            ("usr/bin/aima-dial", (ROOT / "deploy/engines/dial/serve").read_bytes()),
        ],
        links=[(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"],
        writable=["tmp"],
    )
    return one_layer_archive(name, layer.getvalue(), arch="arm64", user="65534:65534")


def worker_of_arm64(cell: Cell) -> tuple[str, ...]:
    """The command of this project's worker in an arm64 Python, with that architecture's wheels."""
    system = unpacked(ARM64)
    packages = _wheels(system)
    into = system.root / _HERE.lstrip("/")
    into.mkdir(parents=True, exist_ok=True)
    prefix = system.inside(cell)
    cell.do("mount", "--bind", str(ROOT), str(into))
    path = f"PYTHONPATH={_HERE}:{packages}"
    return (*prefix, "env", "PYTHONDONTWRITEBYTECODE=1", path, "/usr/bin/python3", "-m", "aima_worker")


def _wheels(system: Unpacked) -> str:
    """The locked packages of a worker, unpacked for arm64 in the system; returns their path there."""
    packages = system.root / "opt/packages"
    if not packages.exists():
        uv = shutil.which("uv") or str(ROOT / "var/uv/bin/uv")
        wanted = system.root / "opt/requirements.txt"
        wanted.parent.mkdir(parents=True, exist_ok=True)
        export = ("export", "--frozen", "--no-dev", "--extra=worker", "--no-emit-project", "--no-hashes")
        platform = ("--python-platform=aarch64-manylinux_2_28", "--python-version=3.11", "--only-binary=:all:")
        partial = packages.with_suffix(".partial")
        for words in (
            (*export, f"--output-file={wanted}"),
            ("pip", "install", f"--target={partial}", *platform, "--no-deps", f"--requirement={wanted}"),
        ):
            done = subprocess.run([uv, *words], cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                missing(f"the wheels of arm64 are not to be had: {done.stderr.strip()[-300:]}")
        own = distribution("aima-engines")
        metadata = partial / "aima_engines-0.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: aima-engines\nVersion: {own.version}\n")
        partial.rename(packages)
    return f"/{packages.relative_to(system.root)}"
