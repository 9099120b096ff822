"""Whether only this machine reaches an address: what listens there may do without a key of somebody's choosing."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"
