"""`aima --help` and `aima service list` against an empty Python program.

In an environment with compiled bytecode, as `deploy/install` creates it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.comparison import Comparison, RatioAtMost, take_turns

ROUNDS = 31
NEEDS = ()
HELP_AT_MOST = RatioAtMost(5)
LISTING_AT_MOST = RatioAtMost(10)


def measure(rounds: int) -> list[Comparison]:
    aima = str(Path(sys.executable).with_name("aima"))
    with empty_api() as url:
        seconds = take_turns(
            rounds,
            {
                "aima --help": lambda: _run([aima, "--help"]),
                "aima service list": lambda: _run([aima, "--url", url, "service", "list"]),
                "python -c pass": lambda: _run([sys.executable, "-c", "pass"]),
            },
        )
    usage, listing, nothing = seconds.values()
    return [
        Comparison("aima --help, against python -c pass", usage, nothing, HELP_AT_MOST),
        Comparison("aima service list, against python -c pass", listing, nothing, LISTING_AT_MOST),
    ]


@contextmanager
def empty_api() -> Iterator[str]:
    """URL of an API without a service, so that the client alone is measured."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _EmptyListing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _EmptyListing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"items": [], "next": null}')

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _run(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment())
    return time.perf_counter() - began


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "AIMA_URL"}
