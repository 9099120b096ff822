"""TLS of an API node or a gateway: when it is required, and the certificate, reloaded when it changes."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from aima_core.errors import BadSettings
from aima_core.settings import ListenerSettings

_log = structlog.get_logger()

Stamp = tuple[int, ...]
"""Inode, time and size of both files."""


def check_transport(settings: ListenerSettings, section: str = "api") -> None:
    """Raises BadSettings if keys would cross a network in clear text without `plain`."""
    if settings.is_exposed and settings.tls.certificate is None and not settings.plain:
        variable = f"AIMA_{section.upper()}__"
        raise BadSettings(
            detail=f"`{section}.bind` = {settings.bind} is beyond loopback, and there is no certificate: keys and "
            "responses would cross the network in clear text.",
            where=f"`{section}.tls.certificate` and `{section}.tls.key` ({variable}TLS__CERTIFICATE=/etc/aima/tls.crt, "
            f"{variable}TLS__KEY=/etc/aima/tls.key), or set `{section}.plain` ({variable}PLAIN=true) where a proxy "
            "adds TLS",
        )


class ReloadingCertificate:
    """Loaded again when its files change, for every connection that follows.

    A pair that does not load, as between the two writes of a renewal, leaves the previous one in use.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises BadSettings if the files are no pair of a certificate and its key."""
        self._certificate, self._key = certificate, key
        try:
            self._stamp = self._read_stamp()
            self._context = self._load()
        except OSError as wrong:
            raise BadSettings(
                detail=f"{certificate} and {key} cannot be used for TLS: {wrong.strerror or wrong}.",
                where="`tls.certificate` (PEM, the server's certificate first, then its chain) and `tls.key` "
                "(PEM, without a password)",
            ) from wrong

    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        try:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._context = self._load()
                _log.info("certificate reloaded", certificate=str(self._certificate))
        except OSError as wrong:
            _log.warning("certificate not reloaded", certificate=str(self._certificate), reason=str(wrong))
        return self._context

    def _load(self) -> ssl.SSLContext:
        """Raises OSError, of which SSLError is one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key, password="")  # none: it would prompt on the terminal
        return context

    def _read_stamp(self) -> Stamp:
        found = self._certificate.stat(), self._key.stat()
        return tuple(value for each in found for value in (each.st_ino, each.st_mtime_ns, each.st_size))
