"""What `redis.url` says: one server, or the Sentinels that know which of several servers is the master just now.

redis://[user:password@]host[:port][/database]               one server; `rediss://` over TLS, its certificate checked
sentinel://[user:password@]host[:port],host[:port],…[/database]?master=NAME[&sentinel_password=…][&sentinel_user=…]
                                                             `sentinels://` over TLS, to the servers and the Sentinels

User and password are the servers'; the Sentinels' own are the options'. `ssl_ca_certs=FILE` names who signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

ONE_SERVER = ("redis", "rediss", "unix")
SENTINELS = ("sentinel", "sentinels")
SENTINEL_PORT = 26379
_OPTIONS = {"master", "sentinel_user", "sentinel_password", "ssl_ca_certs"}


@dataclass(frozen=True)
class SentinelAddress:
    sentinels: tuple[tuple[str, int], ...]
    master: str
    database: int
    user: str | None
    password: str | None
    sentinel_user: str | None
    sentinel_password: str | None
    tls: bool
    ca_certs: str | None


def sentinel_address(url: str) -> SentinelAddress | None:
    """None where the address is one server's. Raises ValueError, which tells no password."""
    parts = urlsplit(url)
    if parts.scheme in ONE_SERVER:
        return None
    if parts.scheme not in SENTINELS:
        raise ValueError(f"an address begins with {_listed(*ONE_SERVER, *SENTINELS)}, not with {parts.scheme!r}")
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"{unknown[0]!r} is no option of such an address; there are {', '.join(sorted(_OPTIONS))}")
    if not options.get("master"):
        raise ValueError("the master's name is missing: end the address with `?master=NAME`")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    return SentinelAddress(
        sentinels=tuple(_sentinel(host) for host in hosts.split(",")),
        master=options["master"],
        database=_database(parts.path),
        user=unquote(user) or None,
        password=unquote(password) or None,
        sentinel_user=options.get("sentinel_user"),
        sentinel_password=options.get("sentinel_password"),
        tls=parts.scheme == "sentinels",
        ca_certs=options.get("ssl_ca_certs"),
    )


def _sentinel(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no Sentinel: write them such as `one:26379,two:26379,three:26379`")
    return parts.hostname, parts.port or SENTINEL_PORT


def _database(path: str) -> int:
    text = path.strip("/") or "0"
    if not text.isdigit():
        raise ValueError(f"{text!r} is no database: it is a number, such as `/0`")
    return int(text)


def _listed(*schemes: str) -> str:
    return ", ".join(f"`{scheme}://`" for scheme in schemes)
