"""The bench of native processes: every program is a shell or Python script."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from contract.bench import EXIT_STATUS, FLOOD, LAST_WORDS, LONG, Bench, Program

from aima_worker.runtimes.process.runtime import ProcessRuntime

_SERVES = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""
_GREEDY = """
import time

held = []
while True:
    held.append(bytearray(b"x") * (1 << 20))
    time.sleep(0.02)
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
}


class ProcessBench(Bench):
    has_images = False
    isolates = False

    def __init__(self) -> None:
        super().__init__()
        self._directory = Path(tempfile.mkdtemp(prefix="aima-bench-"))
        self.runtime = ProcessRuntime(self._directory, host="bench-01")

    @property
    def image(self) -> str:
        return "native"

    def listens_on(self, host_port: int) -> int:
        return host_port

    def command(self, program: Program, *, port: int) -> tuple[str, ...]:
        match program:
            case Program.SERVES:
                return (sys.executable, "-S", "-c", _SERVES, str(port))
            case Program.GREEDY:
                return (sys.executable, "-S", "-c", _GREEDY)
            case _:
                return ("sh", "-c", _SCRIPTS[program])

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._directory)
