"""A real data plane process in front of an engine of this module, whose every request is recorded as it arrived."""

from __future__ import annotations

import json
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from lab.forked import Process, launch
from lab.parts import eventually, free_port
from pydantic import SecretStr

from aima_core.domain.ids import HostName, InstanceId
from aima_core.store.operations import now
from aima_core.trust.gateways import TokenSigner
from aima_core.trust.keys import Purpose, SigningKey
from aima_core.trust.tokens import Certificate
from aima_worker.dataplane.files import Config, EngineAddresses

STRANGER_LOOPBACK = "fedcba9876543210"
HOST = HostName("spark-01")
INSTANCE = InstanceId("svc-tiny-dial@spark-01")
API_NODE = SigningKey(SecretStr("3f9c1b7a5d2e8f60" * 2))
GATEWAY = SigningKey(SecretStr("a04e6d9b1c7f2358" * 2))


class RecordingEngine:
    """`/echo` answers with what it got; `/stream` never ends; `/silent` never answers; `/cut` breaks off its answer."""

    def __init__(self) -> None:
        engine = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    while engine._answer(self):
                        engine._idle.add(self.connection)
                engine._idle.discard(self.connection)

        self.heads: list[bytes] = []
        self.busy = 0
        self._idle: set[socket.socket] = set()
        """Connections that the data plane keeps for its next request."""
        self._lock = threading.Lock()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def hang_up(self) -> None:
        """Ends its idle connections, which the data plane would keep for seconds."""
        for each in list(self._idle):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, connection: socketserver.StreamRequestHandler) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = connection.rfile.readline()
            if not line:
                return False
            head += line
        self.heads.append(head)
        with self._lock:
            self.busy += 1
        try:
            return self._act(head, connection)
        finally:
            with self._lock:
                self.busy -= 1

    def _act(self, head: bytes, connection: socketserver.StreamRequestHandler) -> bool:
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        send = connection.connection.sendall
        if target.startswith("/stream"):
            send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.connection.settimeout(0.02)
            while True:
                send(b"9\r\ndata: x\n\n\r\n")
                with suppress(TimeoutError):
                    if not connection.connection.recv(1):
                        return False
        if target.startswith("/silent"):
            connection.connection.recv(1)
            return False
        if target.startswith("/cut"):
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n")
            return False
        body = json.dumps({"method": method, "target": target, "body": _read_body(head, connection.rfile)}).encode()
        send(b"HTTP/1.1 200 OK\r\nAIMA-Error: forged\r\nContent-Length: %d\r\n\r\n" % len(body))
        if method != "HEAD":
            send(body)
        return True


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return bool(end and length) and len(body) >= int(length)


def _read_body(head: bytes, stream: Any) -> int:
    """Its length."""
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"content-length" in headers:
        return len(stream.read(int(headers[b"content-length"])))
    length = 0
    while b"transfer-encoding" in headers and (size := int(stream.readline(), 16)):
        length += len(stream.read(size))
        stream.readline()
    return length


class DataplaneUnderTest:
    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.engine = RecordingEngine()
        self.addresses = EngineAddresses(directory)
        self.tokens = signer()
        self.process: Process | None = None
        self.addresses.put(INSTANCE, "127.0.0.1", self.engine.port, fence=1)

    def start(self, **config: Any) -> None:
        defaults: dict[str, Any] = {"host": HOST, "bind": "127.0.0.1", "port": self.port, "keys": (API_NODE.public,)}
        defaults |= {"connections": 100, "models": self.directory / "models", "uploads": 8}
        Config.model_validate({**defaults, **config}).save(self.directory)
        self.process = launch("aima_worker.dataplane", self.directory)
        assert eventually(self.listens, within=timedelta(seconds=60))  # an interpreter on a busy machine

    def listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(10)

    def headers(self, instance: InstanceId = INSTANCE) -> dict[str, str]:
        if not self.tokens.is_certified:  # a gateway renews its certificate before it expires
            self.tokens = signer()
        return {"Authorization": f"Bearer {self.tokens.token(instance)}"}

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=20)

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: Any = None,
        **more: Any,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; with a valid token, unless headers are given."""
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers() if headers is None else headers, **more)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def send(self, text: bytes, *, silence: float = 10) -> bytes:
        """What it answers to these bytes: the first answer, or, with a short silence, all until then."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.settimeout(silence)
            answer = b""
            with suppress(TimeoutError, ConnectionError):
                connection.sendall(text)
                while (silence < 1 or not _is_whole(answer)) and (part := connection.recv(65536)):
                    answer += part
            return answer


def signer(api_node: SigningKey = API_NODE, gateway: SigningKey = GATEWAY, **changes: Any) -> TokenSigner:
    """The tokens of a gateway, with a certificate that is changed so."""
    at = now()
    valid = {"public_key": gateway.public, "not_before": at, "not_after": at + timedelta(minutes=5)}
    tokens = TokenSigner(gateway, now=now)
    tokens.certify(Certificate.model_validate({**valid, **changes}).sign(api_node, Purpose.GATEWAY))
    return tokens


@contextmanager
def dataplane(directory: Path) -> Iterator[DataplaneUnderTest]:
    plane = DataplaneUnderTest(directory, free_port())
    try:
        plane.start()
        yield plane
    finally:
        plane.end()
        plane.engine.close()
