"""The process of the data plane: its listener, its limits, and an end that breaks off no stream.

Graceful shutdown: at SIGTERM it stops listening at once, so that a successor can, and ends with its last stream or
after DRAIN_TIMEOUT.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import ssl
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

from aima_core.errors import AimaError, DataplanePortTaken
from aima_core.system.engine_connections import EngineConnections
from aima_core.trust import tokens
from aima_core.trust.gateways import TokenVerifier
from aima_core.trust.keys import KeyRing
from aima_core.trust.peers import PEERS, PieceAccess, PiecesOf
from aima_worker.dataplane.files import AddressReader, Config, config_file, stamp_of
from aima_worker.dataplane.forwarding import CONNECT_TIMEOUT, Forwarder
from aima_worker.dataplane.pieces import PieceServer

BACKLOG = 256
BIND_TIMEOUT = timedelta(seconds=10)
"""How long a predecessor may take to stop listening."""
HEAD_TIMEOUT = timedelta(seconds=30)
"""From a connection, or its last answer, until the next request's head is complete."""
HANDSHAKE_TIMEOUT = timedelta(seconds=5)
DRAIN_TIMEOUT = timedelta(minutes=10)
CHECK_INTERVAL = timedelta(seconds=1)
POLL_INTERVAL = timedelta(milliseconds=50)
MAX_LINE = 16_384
"""Bytes of a request line or of one header; there may be 128 headers."""

_log = structlog.get_logger()


async def serve(directory: Path) -> None:
    """Until SIGTERM or SIGINT. Raises BadSettings, DataplanePortTaken."""
    config, stamp = Config.load(directory), stamp_of(config_file(directory))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    certificate = _Certificate(config) if config.certificate else None
    async with aclosing(EngineConnections(connect=CONNECT_TIMEOUT)) as engines:
        forwarder = Forwarder(_verifier(config), AddressReader(directory), engines, _pieces(config))
        server = _LimitedServer(forwarder, most=_most_connections(config))
        listening = await loop.create_server(
            server,
            sock=await _bound(config, stopping),
            ssl=certificate.context if certificate else None,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT.total_seconds() if certificate else None,
            backlog=BACKLOG,
        )
        _log.info("data plane listening", address=config.bind, port=config.port, tls=certificate is not None)
        while not stopping.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopping.wait(), CHECK_INTERVAL.total_seconds())
            forwarder.abort_silent()
            if certificate:
                certificate.reload_if_changed()
            if (changed := stamp_of(config_file(directory))) != stamp:
                stamp = changed
                _reload_keys(forwarder, directory)
        listening.close()
        await _drained(server, forwarder)
        await server.shutdown(0)
    _log.info("data plane ended")


class _LimitedServer(Server):
    """Closes connections beyond the limit unanswered."""

    def __init__(self, forwarder: Forwarder, *, most: int) -> None:
        super().__init__(
            forwarder,
            handler_cancellation=True,
            access_log=None,
            logger=_unlogged(),
            auto_decompress=False,
            keepalive_timeout=HEAD_TIMEOUT.total_seconds(),
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )
        self._most = most

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._most:
            transport.abort()


def _unlogged() -> logging.Logger:
    """The HTTP server logs malformed requests with a traceback, with which any client could fill the disk."""
    logger = logging.getLogger("aima.dataplane.http")
    logger.disabled = True
    return logger


class _Certificate:
    """Loaded again when its files change, for the connections that follow."""

    def __init__(self, config: Config) -> None:
        """Raises OSError, of which SSLError is one."""
        assert config.certificate
        self._files = config.certificate, config.certificate_key or config.certificate
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_RENEGOTIATION
        self._stamps = list(map(stamp_of, self._files))
        self.context.load_cert_chain(*self._files, password="")

    def reload_if_changed(self) -> None:
        """A pair that does not load, as between the two writes of a renewal, leaves the previous one in use."""
        stamps = list(map(stamp_of, self._files))
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.context.load_cert_chain(*self._files, password="")
        except OSError as wrong:
            _log.warning("certificate not reloaded", certificate=str(self._files[0]), reason=str(wrong))


async def _bound(config: Config, stopping: asyncio.Event) -> socket.socket:
    """Raises DataplanePortTaken."""
    family = socket.AF_INET6 if ":" in config.bind else socket.AF_INET
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BIND_TIMEOUT.total_seconds()
    while True:
        try:
            return socket.create_server((config.bind, config.port), family=family, backlog=BACKLOG)
        except OSError as refused:
            if loop.time() > deadline or stopping.is_set():
                why = refused.strerror or str(refused)
                raise DataplanePortTaken(port=config.port, address=config.bind, why=why) from refused
        await asyncio.sleep(POLL_INTERVAL.total_seconds())


async def _drained(server: Server, forwarder: Forwarder) -> None:
    """Closes idle connections, and waits for the requests in flight."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DRAIN_TIMEOUT.total_seconds()
    server.pre_shutdown()
    while server.connections and loop.time() < deadline:
        await asyncio.sleep(POLL_INTERVAL.total_seconds())
        forwarder.abort_silent()


def _verifier(config: Config) -> TokenVerifier:
    return TokenVerifier(KeyRing(config.public_keys), config.host, now=lambda: datetime.now(UTC))


def _pieces(config: Config) -> PieceServer:
    return PieceServer(_piece_verifier(config), config.models, uploads=config.uploads, rate=config.upload_rate)


def _piece_verifier(config: Config) -> tokens.BearerVerifier[PiecesOf, PieceAccess]:
    return tokens.BearerVerifier(PEERS, KeyRing(config.public_keys), config.host, now=lambda: datetime.now(UTC))


def _reload_keys(forwarder: Forwarder, directory: Path) -> None:
    try:
        config = Config.load(directory)
        forwarder.tokens = _verifier(config)
        forwarder.pieces.tokens = _piece_verifier(config)
    except AimaError as wrong:
        _log.warning("keys not reloaded", reason=str(wrong))


def _most_connections(config: Config) -> int:
    """Each has a second descriptor, to its engine."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(config.connections, (descriptors - 64) // 2))
