"""The adversary on the network without a key: slow and endless requests, smuggling forms, guesses, floods.

It attacks an API node, a gateway and the data plane of a host. It has captured a token for one path of one instance,
as on a network without TLS: what it makes from that must open nothing else.
"""

from __future__ import annotations

import json
import socket
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2
from attacks.adversary import Act, Adversary
from attacks.stage import AttackStage
from lab.dataplane import INSTANCE

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
AT_GATEWAY = ("/v1/models", "/v1/chat/completions", "/v1/embeddings", "/metrics", "/v1/hosts", "/v1/../metrics")
LEADING_OUT = (
    "/",
    "/metrics",
    "/healthz",
    f"/i/{INSTANCE}/../stolen",
    f"/i/{INSTANCE}/..%2fsvc-tiny-other@spark-01/stolen",
    f"/i/{INSTANCE}/%2e%2e/stolen",
    f"/i/{INSTANCE}/a%5cstolen",
    "/i/svc-tiny-other@spark-01/stolen",
    "/i/svc-owned-0@fake-00/stolen",
    f"http://127.0.0.1/i/{INSTANCE}/stolen",
)
REFUSED_FIRST = (b"400", b"408", b"413", b"414", b"429", b"431")
"""Not parsed, or refused for the number of requests."""
GUESSES = ("x", "admin", "Bearer", "aima_" + "A" * 43, "é", "an-owner-holds-this-key-7f3b", "a" * 5000)


class Stranger(Adversary):
    name = "network"
    passes = 0.4

    def __init__(self, stage: AttackStage, seed: int) -> None:
        super().__init__(stage, seed)
        self._addresses = [_address(stage.api.url), _address(stage.gateway.url), ("127.0.0.1", stage.plane.port)]
        self._open: list[socket.socket] = []
        self._endless: socket.socket | None = None
        self._endless_bytes = 0
        self._client = httpx2.Client(base_url=stage.api.url, timeout=5, trust_env=False)
        self._gateway = httpx2.Client(base_url=stage.gateway.url, timeout=5, trust_env=False)
        self._token = stage.plane.tokens.token(INSTANCE)
        self._tried = self._accepted = 0

    def actions(self) -> Sequence[tuple[int, Act]]:
        return (
            (4, self.silence),
            (4, self.a_byte_more),
            (4, self.endless_headers),
            (3, self.many_headers),
            (4, self.garbage),
            (4, self.smuggling),
            (4, self.malformed_head),
            (6, self.guess),
            (3, self.large_body),
            (3, self.hang_up),
            (6, self.guess_at_gateway),
            (5, self.forged_token),
            (5, self.leading_out),
        )

    def accepted(self) -> tuple[int, int]:
        """Of its whole requests, those whose head was parsed and which found a route, or whose token verified."""
        return self._accepted, self._tried

    def withdraw(self) -> None:
        for each in (*self._open, *filter(None, [self._endless])):
            each.close()
        self._client.close()
        self._gateway.close()

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
                self._endless = socket.create_connection(self.pick(self._addresses), timeout=2)
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
        path = self.pick([b"/v1/services", b"/v1/chat/completions", f"/i/{INSTANCE}/echo".encode()])
        forms: tuple[bytes, ...] = (
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            b"Content-Length: 5\r\nContent-Length: 50\r\n",
            b"Transfer-Encoding : chunked\r\n",
            b"Content-Length: -1\r\n",
        )
        connection.send(b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + self.pick(forms) + b"\r\n" + body)
        return self._said(connection)

    def malformed_head(self) -> str:
        connection = self._connect()
        forms: tuple[bytes, ...] = (
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \x00\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nX\r\n\r\n",
            b"GET  HTTP/1.1\r\n\r\n",
            b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"CONNECT 127.0.0.1:6379 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        )
        connection.sendall(self.pick(forms))
        return self._said(connection)

    def guess(self) -> str:
        headers = {"Authorization": f"Bearer {self.pick(GUESSES)}".encode()}
        method, path = self.pick(["GET", "POST", "DELETE", "PUT", "TRACE"]), self.pick(PATHS)
        answer = self._client.request(method, path, headers=headers)
        self._check(answer)
        return f"{method} {path}: {answer.status_code}"

    def guess_at_gateway(self) -> str:
        headers = {self.pick(["Authorization", "x-api-key"]): f"Bearer {self.pick(GUESSES)}".encode()}
        method, path = self.pick(["GET", "POST", "DELETE"]), self.pick(AT_GATEWAY)
        answer = self._gateway.request(method, path, headers=headers, json={"model": "owned", "messages": []})
        self._check(answer)
        return f"gateway, {method} {path}: {answer.status_code}"

    def forged_token(self) -> str:
        """A captured one with a character or a field changed."""
        parts = json.loads(urlsafe_b64decode(self._token + "=" * (-len(self._token) % 4)))
        certificate, access = parts["certificate"], parts["access"]
        how = self.pick(["character", "swapped", "instance", "signature", "deep"])
        if how == "deep":
            return self._at_plane(f"/i/{INSTANCE}/stolen", urlsafe_b64encode(b"[" * 3000).decode())
        if how == "swapped":
            parts = {"certificate": access, "access": certificate}
        elif how == "signature":
            access["signature"] = certificate["signature"]
        elif how == "instance":
            access["text"] = access["text"].replace("spark-01", "spark-02")
        else:  # not one of the last, which have bits that no decoder reads
            part, field = self.pick([certificate, access]), self.pick(["text", "signature"])
            at = self.random.randrange(40)
            part[field] = part[field][:at] + ("A" if part[field][at] != "A" else "B") + part[field][at + 1 :]
        token = urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")
        return self._at_plane(f"/i/{INSTANCE}/stolen", token)

    def leading_out(self) -> str:
        """Paths beyond the instance of a token that verifies."""
        self._token = self.stage.plane.tokens.token(INSTANCE)
        return self._at_plane(self.pick(LEADING_OUT), self._token)

    def _at_plane(self, path: str, token: str) -> str:
        """Nothing of these reaches an engine: the engine has recorded every path."""
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        connection = self._connect(self._addresses[2])
        connection.sendall(head.encode())
        said = self._said(connection)
        if stolen := [each for each in self.stage.plane.engine.heads if b"stolen" in each.split(b"\r\n")[0]]:
            self.stage.mishaps.append(f"a stranger reached an engine: {stolen[-1][:200]!r}")
            self.stage.plane.engine.heads.clear()
        return f"{path}: {said}"

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

    def _connect(self, at: tuple[str, int] | None = None) -> socket.socket:
        while len(self._open) >= MOST_OPEN:
            self._open.pop(0).close()
        connection = socket.create_connection(at or self.pick(self._addresses), timeout=2)
        self._open.append(connection)
        return connection

    def _check(self, answer: httpx2.Response) -> None:
        self._count(str(answer.status_code).encode())
        self.stage.note_answer(answer, of="a stranger")
        if answer.is_success:
            self.stage.mishaps.append(f"a stranger was answered {answer.status_code}: {answer.request.url}")

    def _said(self, connection: socket.socket) -> str:
        connection.settimeout(0.3)
        said: Any = b""
        with suppress(OSError):
            said = connection.recv(2000)
        status = said.split(b"\r\n")[0].split(b" ")[1:2]
        if status in ([b"200"], [b"202"]):
            self.stage.mishaps.append(f"a stranger was answered {said[:200]!r}")
        self._count(*status)
        return repr(said[:60])

    def _count(self, status: bytes = REFUSED_FIRST[0]) -> None:
        self._tried += 1
        self._accepted += status not in REFUSED_FIRST


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0
