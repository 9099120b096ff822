"""A private Docker Engine of one test, which can kill and restart it or give it a small disk."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import docker
import psutil
from docker.errors import DockerException
from lab.cell import Cell, cell, require_root
from lab.parts import eventually, missing
from lab.unpacked import Unpacked, engine_command

REMAPPED_USER = "daemon"
"""With a group of that name; its numbers do not matter."""
STARTS_WITHIN = timedelta(seconds=60)
ANSWERS_WITHIN = timedelta(seconds=60)
"""It answers only when it has created or removed a container."""
LOADS_WITHIN = timedelta(minutes=2)


class EngineAt:
    """A Docker Engine at an address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (DockerException, OSError):  # OSError: it ends between two requests
            return False

    @contextmanager
    def client(self, *, within: timedelta = ANSWERS_WITHIN) -> Iterator[docker.DockerClient]:
        with closing(docker.DockerClient(self.address, timeout=int(within.total_seconds()))) as client:
            yield client

    def load(self, archive: bytes) -> None:
        """It answers only when it has unpacked the layers."""
        with self.client(within=LOADS_WITHIN) as client:
            client.images.load(archive)

    def finish_loading(self, container: str) -> None:
        """Ends the loading of a test engine, whose `load-seconds` are more than a test needs."""
        with self.client() as client:
            finish_loading(client, container)


def finish_loading(client: docker.DockerClient, container: str) -> None:
    """The same on an engine of that client."""
    ends = ["busybox", "killall", "sleep"]
    loading = client.containers.get(container)

    def has_loaded() -> bool:  # race: one that has just started does not sleep yet, and another has loaded meanwhile
        return loading.exec_run(ends).exit_code == 0 or b"ready on" in loading.logs()

    assert eventually(has_loaded, within=STARTS_WITHIN), f"{container} does not load"


class OwnEngine(EngineAt):
    """One Docker Engine in a cell. Its containers outlive it, but not the cell."""

    def __init__(self, inside: Cell, directory: Path, *command: str) -> None:
        super().__init__(f"unix://{directory}/docker.sock")
        self.cell = inside
        self._directory = directory
        self._command = command
        self._process: psutil.Process | None = None
        self._entering: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self._directory / "dockerd.log"
        self._entering = self.cell.run(*self._command, log=log)
        if not eventually(self.answers, within=STARTS_WITHIN):
            raise AssertionError(f"dockerd did not answer:\n{log.read_text(errors='replace')[-2000:]}")
        (self._process,) = psutil.Process(self._entering.pid).children()

    def kill(self) -> None:
        """Kills the engine, but not its containers."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def take(self, image: str) -> None:
        """Loads an image of the shared engine."""
        with closing(docker.from_env()) as shared:
            self.load(b"".join(shared.images.get(image).save(named=True)))

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._entering is not None:
            self._process.send_signal(how)
            self._entering.wait(30)
            self._process = None


@contextmanager
def own_engine(
    *,
    disk: str | None = None,
    filesystem: str = "ext4",
    live_restore: bool = False,
    download_attempts: int = 1,
    pools: str | None = None,
    remapped_to: int | None = None,
    system: Unpacked | None = None,
) -> Iterator[OwnEngine]:
    """A running Docker Engine in a new cell, with its images and containers on a disk of that size.

    `pools` has the addresses of all its networks. The default of five attempts to download a layer would take 75 s.
    Root of its containers is the user `remapped_to` outside.
    `system` has another engine than this machine's.
    """
    if system is None and shutil.which("dockerd") is None:
        missing("there is no dockerd; `tests/check` installs one")
    directory = Path(tempfile.mkdtemp(prefix="aima-engine-"))  # pytest's own paths are too long for a socket
    data = directory / "data"
    data.mkdir()
    flags = {
        "host": f"unix://{directory}/docker.sock",
        "data-root": str(data),
        "shutdown-timeout": "1",
        "max-download-attempts": str(download_attempts),
        "log-level": "warn",
        "live-restore": str(live_restore).lower(),
    }
    if pools:
        flags["default-address-pool"] = f"base={pools},size={pools.partition('/')[2]}"
    if remapped_to is not None:
        flags["userns-remap"] = REMAPPED_USER
    try:
        with _disk(data, disk, filesystem) if disk else nullcontext(), cell() as inside:
            if remapped_to is not None:
                _remap(inside, directory, to=remapped_to)
            engine = OwnEngine(inside, directory, *engine_command(inside, directory, flags, system=system))
            engine.start()
            yield engine
    finally:
        shutil.rmtree(directory)


def _remap(inside: Cell, directory: Path, *, to: int) -> None:
    directory.chmod(0o711)
    for name in ("subuid", "subgid"):
        (directory / name).write_text(f"{REMAPPED_USER}:{to}:65536\n")
        Path("/etc", name).touch()
        inside.do("mount", "--bind", str(directory / name), f"/etc/{name}")


@contextmanager
def _disk(place: Path, size: str, filesystem: str) -> Iterator[None]:
    """Mounts a disk of that size, outside the cell because clients of the engine check it too."""
    require_root(f"mkfs.{filesystem}", "mount", "umount")
    image = place.with_suffix(".disk")
    for command in (
        ("truncate", "--size", size, image),
        (f"mkfs.{filesystem}", "-q", image),
        ("mount", "-o", "loop", image, place),
    ):
        subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", place), check=True)
