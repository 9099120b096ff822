"""An HTTP server for test doubles: a thread per connection, all of them ended at its exit."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from lab.certificates import Certificate


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    """With the default of 5, connections wait for retransmissions while the machine is busy."""
    daemon_threads = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()
        self._lock = Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients close connections that they no longer need
            super().handle_error(request, client_address)

    def end(self) -> None:
        self.shutdown()
        with self._lock:
            for request in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(request, socket.SHUT_RDWR)  # below TLS, which would wait
        self.server_close()


@contextmanager
def http_server(
    handler: type[BaseHTTPRequestHandler], address: str = "127.0.0.1", port: int = 0, *, tls: Certificate | None = None
) -> Iterator[str]:
    """Its base URL."""
    server = _Server((address, port), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name=f"server of {handler.__name__}")
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://{address}:{server.server_address[1]}"
    finally:
        server.end()
        thread.join()
