"""A Debian machine with systemd in namespaces of its own: installed in a chroot, booted, used, and rebooted.

Its root is made once from packages of this distribution, or of another release, and cached. systemd is its first
process, with control groups of its own, and mount, process and network namespaces; killing the outermost process fells
all of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from deploy.stand_in import CERTIFICATES, PASSED_ON, release_of_this_machine
from lab.cell import require_root
from lab.cgroups import own_cgroups
from lab.parts import eventually, missing
from lab.running import ROOT

PACKAGES = "systemd-sysv,python3,python3-venv,redis-server,ca-certificates,procps,iproute2,busybox-static"
SOURCE = "/src"
BOOTS_WITHIN = timedelta(seconds=60)
UV_CACHE = Path("~/.cache/uv").expanduser()
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net")
_DEVICES = "null zero full random urandom tty"
_CHROOT = """
mount --make-rprivate / && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/run"
mkdir -p "$2" "$1/root/.cache/uv" && mount --bind "$2" "$1/root/.cache/uv"
root=$1 && shift 2 && exec chroot "$root" "$@"
"""
_CONTROLLERS = "memory pids"
_ENTER_GROUPS = f"""
set -e
cd /sys/fs/cgroup
for root in . systemd unified {_CONTROLLERS}; do
    [ -e "$root/cgroup.procs" ] || continue
    mkdir -p "$root$1" && echo 0 > "$root$1/cgroup.procs"
done
shift && exec unshare --cgroup -- "$@"
"""
"""The outermost process stays outside: in version 2 a group with controllers for groups in it has no processes."""
_BOOT = f"""
set -e
mount --make-rprivate / && mount --bind "$1" "$1" && cd "$1"
mount -t proc proc proc && mount -t sysfs -o ro sysfs sys
if [ "$2" = unified ] || [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup && mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    for each in {_CONTROLLERS}; do
        mkdir sys/fs/cgroup/$each && mount -t cgroup -o $each cgroup sys/fs/cgroup/$each
    done
fi
mount -t tmpfs -o mode=755 tmpfs run && mount -t tmpfs tmpfs tmp && mount -t tmpfs -o mode=755 dev dev
for each in {_DEVICES}; do touch dev/$each && mount --bind /dev/$each dev/$each; done
mkdir dev/shm dev/pts && mount -t tmpfs tmpfs dev/shm && mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx && ln -s /proc/self/fd dev/fd && ip link set lo up
mkdir -p old && pivot_root . old && umount -l old
mount --make-rshared /  # systemd hands credentials over by a mount
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init </dev/null >/dev/null 2>&1
"""


class Machine:
    def __init__(self, root: Path, group: str, *, unified: bool) -> None:
        """`unified`: with version 2 of control groups, which lacks controllers that this machine uses by version 1."""
        self.root = root
        self.unified = unified
        self._group = group
        self._boots = 0
        self._outermost: subprocess.Popen[bytes] | None = None

    def install(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`deploy/install` without a booted systemd, on this machine's network."""
        command = ["unshare", "--mount", "sh", "-c", _CHROOT, "sh", str(self.root), str(UV_CACHE)]
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        certificates = {"SSL_CERT_FILE": str(CERTIFICATES), "PIP_CERT": str(CERTIFICATES)}
        return subprocess.run(
            [*command, f"{SOURCE}/deploy/install", *words],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **environment, **certificates},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def boot(self) -> None:
        """Returns once systemd has started everything."""
        command = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *_NAMESPACES, "--"]
        self._boots += 1
        enter = ["sh", "-c", _ENTER_GROUPS, "sh", f"{self._group}/boot-{self._boots}"]
        self._outermost = subprocess.Popen([*command, *enter, "sh", "-c", _BOOT, "sh", str(self.root), self._layout()])
        assert eventually(self._has_booted, within=BOOTS_WITHIN), self.run("systemctl", "list-jobs").stdout

    def _layout(self) -> str:
        return "unified" if self.unified else "of this machine"

    def power_off(self) -> None:
        """At once, as by a cut."""
        if self._outermost is not None:
            self._outermost.kill()
            self._outermost.wait()
            self._outermost = None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._inside(), *command], capture_output=True, text=True, timeout=120)

    def log(self, unit: str) -> str:
        return self.run("journalctl", "--unit", unit, "--no-pager", "--output", "cat").stdout

    def process_of(self, unit: str) -> int:
        """Its process id inside."""
        return int(self.run("systemctl", "show", "--property", "MainPID", "--value", unit).stdout)

    def _has_booted(self) -> bool:
        state = self.run("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    def _inside(self) -> list[str]:
        assert self._outermost is not None
        children = psutil.Process(self._outermost.pid).children()
        target = str(children[0].pid if children else self._outermost.pid)
        namespaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd=/")
        path = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return ["nsenter", "--target", target, *namespaces, "--", "env", "-i", path]


@contextmanager
def machine(directory: Path, *, cache: Path, release: str | None = None) -> Iterator[Machine]:
    """A machine that is not booted yet, with the sources at /src; skips the test where none can be made.

    Of another release of Debian, it has version 2 of control groups, as that release has by default.
    """
    require_root("mmdebstrap", "unshare", "nsenter", "setpriv", "mount", "ip")
    suite = release or release_of_this_machine()
    archive = cache / f"machine-{suite}-1.tar"
    if not archive.exists():
        draft = archive.with_suffix(".draft")
        included = ["--variant=apt", f"--include={PACKAGES}", suite, str(draft)]
        if subprocess.run(["mmdebstrap", "--quiet", "--format=tar", *included]).returncode:
            missing("mmdebstrap cannot reach this distribution's packages")
        draft.replace(archive)
    root = directory / "root"
    root.mkdir()
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", root], check=True)
    copy_sources(root / SOURCE.lstrip("/"))
    for file in (CERTIFICATES, Path("/etc/resolv.conf"), Path("/etc/hosts")):
        if file.exists():
            shutil.copy(file, root / file.relative_to("/"))
    with own_cgroups() as group:
        made = Machine(root, group, unified=release is not None)
        try:
            yield made
        finally:
            made.power_off()


def copy_sources(target: Path) -> None:
    """As a clone has them, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
