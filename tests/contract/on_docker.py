"""The bench of a real Docker Engine: every program is a busybox script."""

from __future__ import annotations

from contract.bench import EXIT_STATUS, FLOOD, LAST_WORDS, LONG, Bench, Program
from lab.images import busybox_image

from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

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


class DockerBench(Bench):
    def __init__(self, address: str | None = None) -> None:
        """On the engine at that address; None for the shared one."""
        super().__init__()
        self._address = address
        self.runtime = DockerSdkRuntime(address, host="bench-01")

    def close(self) -> None:
        super().close()
        if isinstance(self.runtime, DockerSdkRuntime):
            self.runtime.close()

    @property
    def image(self) -> str:
        return busybox_image(self._address)

    def command(self, program: Program, *, port: int) -> tuple[str, ...]:
        if program is Program.SERVES:
            return ("httpd", "-f", "-p", str(port), "-h", "/www")
        return ("sh", "-c", _SCRIPTS[program])
