"""The adversary on the network without a key: slow and endless requests, smuggling forms, guesses, floods."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2
from attacks.adversary import Act, Adversary
from attacks.stage import AttackStage

MOST_OPEN = 120
MOST_ENDLESS = 400 << 20
CHUNK = 2 << 20
PATHS = (
    "/v1/services",
    "/v1/operations",
    "/v1/hosts",
    "/v1/keys",
    "/v1/audit",
    "/metrics",
    "/v1/services/svc-owned-0:start",
)
GUESSES = ("", "x", "admin", "\x00", "Bearer", "aima_" + "A" * 43, "é", "an-owner-holds-this-key-7f3b", "a" * 5000)


class Stranger(Adversary):
    name = "network"

    def __init__(self, stage: AttackStage, seed: int) -> None:
        super().__init__(stage, seed)
        address = urlsplit(stage.api.url)
        self._address = (address.hostname or "", address.port or 0)
        self._open: list[socket.socket] = []
        self._endless: socket.socket | None = None
        self._endless_bytes = 0
        self._client = httpx2.Client(base_url=stage.api.url, timeout=5, trust_env=False)

    def actions(self) -> Sequence[tuple[int, Act]]:
        return (
            (4, self.silence),
            (4, self.a_byte_more),
            (4, self.endless_headers),
            (3, self.many_headers),
            (4, self.garbage),
            (4, self.smuggling),
            (6, self.guess),
            (3, self.large_body),
            (3, self.hang_up),
        )

    def withdraw(self) -> None:
        for each in (*self._open, *filter(None, [self._endless])):
            each.close()
        self._client.close()

    def silence(self) -> str:
        self._connect()
        return f"{len(self._open)} connections open"

    def a_byte_more(self) -> str:
        """Slow loris: one more byte of a header on each of some open connections."""
        for each in self._open[-20:]:
            with suppress(OSError):
                each.send(b"G" if self.random.random() < 0.1 else b"x")
        return "some bytes"

    def endless_headers(self) -> str:
        """A header that grows until the node cuts the connection."""
        if self._endless_bytes > MOST_ENDLESS:
            return "enough"
        try:
            if self._endless is None:
                self._endless = socket.create_connection(self._address, timeout=2)
                self._endless.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            self._endless.sendall(b"a" * CHUNK)
            self._endless_bytes += CHUNK
        except OSError as cut:
            self._endless, self._endless_bytes = None, 0
            return f"cut: {cut}"
        return f"{self._endless_bytes} bytes"

    def many_headers(self) -> str:
        connection = self._connect()
        connection.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(5000)))
        return "5,000 headers"

    def garbage(self) -> str:
        connection = self._connect()
        connection.send(self.random.randbytes(self.random.randrange(1, 5000)))
        return "random bytes"

    def smuggling(self) -> str:
        connection = self._connect()
        body = b"0\r\n\r\nGET /v1/keys HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        forms: tuple[bytes, ...] = (
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            b"Content-Length: 5\r\nContent-Length: 50\r\n",
            b"Transfer-Encoding : chunked\r\n",
            b"Content-Length: -1\r\n",
        )
        connection.send(b"POST /v1/services HTTP/1.1\r\nHost: 127.0.0.1\r\n" + self.pick(forms) + b"\r\n" + body)
        return self._said(connection)

    def guess(self) -> str:
        headers = {"Authorization": f"Bearer {self.pick(GUESSES)}".encode()}
        method, path = self.pick(["GET", "POST", "DELETE", "PUT", "TRACE"]), self.pick(PATHS)
        answer = self._client.request(method, path, headers=headers)
        self._check(answer)
        return f"{method} {path}: {answer.status_code}"

    def large_body(self) -> str:
        answer = self._client.post(
            "/v1/services", content=b"[" * (3 << 20), headers={"content-type": "application/json"}
        )
        self._check(answer)
        return str(answer.status_code)

    def hang_up(self) -> str:
        if not self._open:
            return "nothing open"
        self._open.pop(self.random.randrange(len(self._open))).close()
        return "one closed"

    def _connect(self) -> socket.socket:
        while len(self._open) >= MOST_OPEN:
            self._open.pop(0).close()
        connection = socket.create_connection(self._address, timeout=2)
        self._open.append(connection)
        return connection

    def _check(self, answer: httpx2.Response) -> None:
        self.stage.note_answer(answer, of="a stranger")
        if answer.is_success:
            self.stage.mishaps.append(f"a stranger was answered {answer.status_code}: {answer.request.url}")

    def _said(self, connection: socket.socket) -> str:
        connection.settimeout(0.3)
        said: Any = b""
        with suppress(OSError):
            said = connection.recv(2000)
        if b" 200 " in said.split(b"\r\n")[0] or b" 202 " in said.split(b"\r\n")[0]:
            self.stage.mishaps.append(f"a stranger was answered {said[:200]!r}")
        return repr(said[:60])
