"""The bench of a real Docker Engine: every program is a busybox script."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import closing
from ipaddress import ip_network

import pytest
from contract.bench import EXIT_STATUS, FLOOD, LAST_WORDS, LONG, Bench, Program
from lab.images import busybox_image, engine_client, layered_image
from lab.parts import missing

from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)
except OSError:
    sys.exit(1)
"""
_SCRIPTS = {
    Program.CRASHES: f"echo '{LAST_WORDS}' >&2; exit {EXIT_STATUS}",
    Program.STUBBORN: "trap '' TERM; echo deaf; while :; do sleep 1; done",
    Program.SPEAKS: "echo out 1; echo out 2; echo err 1 >&2; echo err 2 >&2; exec sleep 1000",
    Program.COUNTS: "i=0; while :; do i=$((i+1)); echo count $i; sleep 0.05; done",
    Program.FLOODS: f"seq 1 {FLOOD} | sed 's/^/line /'",
    Program.JUNK: (
        r"printf '\033[31mred\033[0m\a\n'; printf '\377\376 bad \000 bytes\n';"
        f" head -c {LONG} /dev/zero | tr '\\0' x; echo; echo end"
    ),
    Program.GREEDY: "exec tail /dev/zero",
}


def connects_from(pid: int, address: str, port: int) -> bool:
    """Whether a program in the network of that process can connect there."""
    inside = ["nsenter", "--target", str(pid), "--net", "--"]
    return subprocess.run([*inside, sys.executable, "-S", "-c", _CONNECT, address, str(port)]).returncode == 0


class DockerBench(Bench):
    def __init__(self, address: str | None = None) -> None:
        """On the engine at that address; None for the shared one."""
        super().__init__()
        self._address = address
        self.runtime = DockerSdkRuntime(address, host="bench-01")

    def close(self) -> None:
        super().close()
        assert isinstance(self.runtime, DockerSdkRuntime)
        self.runtime.remove_network(self.network)
        self.runtime.close()

    @property
    def gateway(self) -> str:  # type: ignore[override]  # read from the engine
        with closing(engine_client(self._address)) as client:
            configured = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
        # An engine that was restarted reports the subnet only, of which it has the first address.
        return str(configured.get("Gateway") or next(ip_network(configured["Subnet"]).hosts()))

    @property
    def image(self) -> str:
        return busybox_image(self._address)

    def spare_image(self) -> str:
        return layered_image(
            f"aima-lab/spare:{uuid.uuid4().hex[:12]}", layers=[50], base=self.image, address=self._address
        )

    def command(self, program: Program, *, port: int) -> tuple[str, ...]:
        if program is Program.SERVES:
            return ("httpd", "-f", "-p", str(port), "-h", "/www")
        return ("sh", "-c", _SCRIPTS[program])

    def writes(self, name: str, path: str, *, mebibytes: int) -> bool:
        self._require_processes()
        write = f"busybox dd if=/dev/zero of={path} bs=1M count={mebibytes}"
        return subprocess.run(["docker", "exec", name, "sh", "-c", write], capture_output=True).returncode == 0

    def reaches(self, name: str, address: str, port: int) -> bool:
        self._require_processes()
        if os.geteuid() != 0:
            missing("only root may enter a container's network")
        container = self.runtime.find(name)
        assert container is not None and container.pid is not None
        return connects_from(container.pid, address, port)

    def _require_processes(self) -> None:
        """An engine in a chroot of a cell reads the /proc of outside: `docker exec` would enter another process."""
        if self._address:
            pytest.skip("the processes of this engine's containers have other ids outside of its cell")
