"""A data plane that answers every request for a piece with other bytes of the right length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from lab.http_server import http_server

WRONG = bytes(range(7)) * (16 << 18)


class HostilePeer:
    def __init__(self) -> None:
        self.requests = 0
        self.authorizations: list[str | None] = []
        self.url = ""
        self.redirect: str | None = None
        """To this URL, instead of content."""

    def content(self, length: int) -> bytes:
        return WRONG[:length]

    def digest(self, length: int) -> str:
        return hashlib.sha256(self.content(length)).hexdigest()


@contextmanager
def hostile_peer() -> Iterator[HostilePeer]:
    peer = HostilePeer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            peer.requests += 1
            peer.authorizations.append(self.headers["Authorization"])
            if peer.redirect is not None:
                self.send_response(307)
                self.send_header("Location", peer.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first, last = (
                int(each) for each in self.headers.get("Range", "bytes=0-1").removeprefix("bytes=").split("-")
            )
            content = peer.content(last + 1 - first)
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Range", f"bytes {first}-{last}/*")
            self.send_header("AIMA-SHA256", peer.digest(len(content)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(content)

    with http_server(Handler) as peer.url:
        yield peer
