"""Loopback addresses, and the check that an API node or a gateway can listen on an address."""

from __future__ import annotations

import errno
import ipaddress
import socket
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from aima_core.errors import ApiPortTaken, BadSettings

LOOPBACK = "127.0.0.1"


@lru_cache(maxsize=256)
def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def loopback_id() -> str | None:
    """Equal for all processes that share this one's loopback: of one boot, in one network namespace. None if unknown.

    Names and addresses do not suffice: containers have namespaces of their own, and copied machines their names.
    """
    try:
        namespace = Path("/proc/self/ns/net").stat()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return sha256(f"{boot} {namespace.st_dev} {namespace.st_ino}".encode()).hexdigest()[:16]


def find_port(address: str, port: int, *, what: str = "API", section: str = "api", option: str = "--port") -> int:
    """The port, or a free one for 0. Raises ApiPortTaken, and BadSettings for an address of elsewhere."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.create_server((address, port), family=family) as probe:
            return int(probe.getsockname()[1])
    except OSError as wrong:
        if wrong.errno == errno.EADDRINUSE:
            raise ApiPortTaken(what=what, port=port, address=address, option=option) from wrong
        detail = f"The {what} cannot listen on port {port} of {address}: {wrong.strerror or wrong}."
        raise BadSettings(
            detail=detail, where=f"`{section}.bind` (an address of this machine) and `{section}.port`"
        ) from wrong
