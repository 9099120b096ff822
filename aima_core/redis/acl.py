"""Redis users with least privilege, as lines of an ACL file (Redis 7): one for API nodes, hosts, gateways, and Flower.

Redis checks each command of a script against the user who runs it. So the commands are read from the scripts and from
`interface.py`; which keys a role reads and writes is written here, beside the table of `keys.py`. A missing permission
is refused by Redis and shows in its `ACL LOG`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from aima_core.domain.ids import HostName
from aima_core.redis import keys
from aima_core.redis.interface import TextCommands
from aima_core.redis.scripts import LUA

ANY: str = "*"
_CALL = re.compile(r"redis\.p?call\(([^,)]*)")
_NAME = re.compile(r"'([A-Z]+)'")
_CONNECTION = ("auth", "hello", "ping", "select", "time")
_SUBSCRIBE = ("subscribe", "unsubscribe", "psubscribe", "punsubscribe")
_TRANSACTION = ("multi", "exec", "watch", "unwatch", "evalsha", "script|load", "script|exists")
_CELERY = (
    *("publish", "get", "set", "exists", "del", "pexpire", "pttl", "hget", "hset", "hdel"),
    *("sadd", "srem", "smembers", "zadd", "zrem", "zrange", "zrangebyscore"),
)
"""Its bindings, the messages that are not acknowledged yet, and their lock."""
_LISTS = ("lpush", "rpush", "brpop", "rpop", "llen", "exists")
"""Commands that change nothing but a list: the pattern of a queue matches other keys, too."""
_TEMPORARY = ("pexpire", "del")
"""For queues of one consumer, which Celery deletes."""
_HOSTS = (keys.HOSTS, keys.HOSTS_SEEN, keys.DRAINED)
_CLASSES = ("*.arm64", "*.amd64")
_QUEUES = ("host.*", *_CLASSES, "unrouted")
_PRIORITY = "[^-a-z0-9.][^-a-z0-9.][369]"
"""The suffix of a queue's keys by priority, after two control characters."""
_NAMED_OTHERWISE = {"delete": "del", "script_load": "script|load"}


class Role(StrEnum):
    API = "api"
    WORKER = "worker"
    """Of one host, or of all hosts together."""
    GATEWAY = "gateway"
    FLOWER = "flower"


class Grant(NamedTuple):
    """Commands, on keys and channels: Redis allows what one grant of the user allows as a whole."""

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()
    """Patterns with their permission: `%R~` to read, `%W~` to write, `~` for both."""
    channels: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [f"+{command}" for command in sorted(set(self.commands))]
        channels = [f"&{channel}" for channel in self.channels]
        return " ".join(["resetkeys", "resetchannels", "-@all", *named, *self.keys, *channels])


class RedisUser(NamedTuple):
    name: str
    grants: tuple[Grant, ...]

    def rules(self, password: str, *, client_info: bool = True) -> str:
        """What follows the user's name; `password` is a rule such as `>secret` or `#digest`.

        `client_info` allows clients to name their library at each connection, which Redis knows since 7.2.
        """
        first, *others = map(str, self.grants)
        selectors = [f"({grant})" for grant in others]
        return " ".join(["on", password, first, *(["+client|setinfo"] if client_info else []), *selectors])


def users(roles: Iterable[Role], *, hosts: Sequence[HostName] = (), database: int = 0) -> Iterator[RedisUser]:
    """The users of the roles. With `hosts`, each has a worker's user confined to its own records."""
    for role in roles:
        match role:
            case Role.API:
                yield RedisUser("aima-api", (_api(),))
            case Role.WORKER:
                for host in hosts:
                    yield RedisUser(f"aima-worker-{host}", tuple(_worker(host, database)))
                if not hosts:
                    yield RedisUser("aima-worker", tuple(_worker(ANY, database)))
            case Role.GATEWAY:
                yield RedisUser("aima-gateway", tuple(_gateway()))
            case Role.FLOWER:
                yield RedisUser("aima-flower", tuple(_flower(database)))


@cache
def commands() -> tuple[str, ...]:
    """Commands of the scripts and of `interface.py`."""
    direct = (name for name in vars(TextCommands) if not name.startswith("_"))
    scripts = (file.read_text() for folder in LUA.iterdir() for file in folder.iterdir())
    scripted = (name.lower() for text in scripts for call in _CALL.findall(text) for name in _NAME.findall(call))
    return tuple(sorted({_NAMED_OTHERWISE.get(name, name) for name in (*direct, *scripted)}))


def _api() -> Grant:
    used = (*commands(), *_CONNECTION, *_TRANSACTION, *_SUBSCRIBE, "xread", "ltrim")
    return Grant(used, (f"~{keys.PREFIX}*",), (keys.EVENTS,))


def _worker(host: str, database: int) -> Iterator[Grant]:
    own = [keys.instances_on, keys.usage, keys.slots, keys.held, keys.asked]
    yield Grant(
        (*commands(), *_CONNECTION, *_TRANSACTION, *_SUBSCRIBE, *_CELERY),
        (
            *_both(keys.EPOCH, keys.FENCE, keys.ACTIVE, keys.WAITING, keys.OPERATIONS, keys.COMMON_LOG),
            *_both(*(f"{prefix}*" for prefix in (keys.operation, keys.claim, keys.log, keys.answer))),
            *_both(keys.INSTANCES, keys.SERVICES_AT, *_HOSTS, keys.HOSTS_SESSIONS, keys.HOSTS_IDENTITIES, keys.DROPPED),
            *_both(*(f"{prefix}{host}" for prefix in own), f"{keys.ports}{host}", f"{keys.ports}{host}:last"),
            *_both(f"{keys.port}{host}:*"),
            *_both(*(f"{prefix}*@{host}" for prefix in (keys.instance, keys.lines, keys.last_lines))),
            *(f"%R~{prefix}*" for prefix in (keys.instance, keys.slots, keys.held)),
            f"%R~{keys.HOST_LABELS}",
            f"%R~{keys.HOST_CERTIFICATES}",
            *_both(f"{keys.fetching}*", f"{keys.pieces}*"),
            *_both(f"{keys.PREFIX}unacked*", f"{keys.PREFIX}_kombu.*"),
        ),
        (keys.EVENTS, *_celery_channels(database)),
    )
    # Restores the signed specs that Redis has lost; it cannot delete one.
    specs = _both(f"{keys.service}*", f"{keys.revisions}*", keys.SERVICES)
    yield Grant(("get", "mget", "set", "zadd", "zrange", "evalsha"), tuple(specs))
    yield Grant(("hset", "hkeys", "hdel", "type", "del"), tuple(_both(f"{keys.revisions}*")))
    yield Grant(("hdel",), tuple(_both(f"{keys.starts}*")))
    yield Grant(_LISTS, tuple(_queues(host)))
    yield Grant((*_LISTS, *_TEMPORARY), _queue("~", "*.celery.pidbox"))


def _gateway() -> Iterator[Grant]:
    read = ("get", "hgetall", "hget", "zrange", "type", "evalsha", "script|load")
    records = (
        keys.EPOCH,
        keys.ALIASES,
        keys.INSTANCES,
        f"{keys.instance}*",
        keys.HOSTS_SEEN,
        keys.DRAINED,
        keys.API_KEYS,
    )
    yield Grant((*_CONNECTION, *_SUBSCRIBE, *read), tuple(f"%R~{key}" for key in records), (keys.EVENTS,))
    yield Grant(("hset", "expire", "multi", "exec"), (f"%W~{keys.TRAFFIC}", f"%W~{keys.API_KEYS_USED}"))


def _flower(database: int) -> Iterator[Grant]:
    yield Grant(
        (*_CONNECTION, *_TRANSACTION, *_SUBSCRIBE, *_CELERY),
        (f"~{keys.PREFIX}_kombu.*", f"~{keys.PREFIX}unacked*"),
        _celery_channels(database),
    )
    yield Grant((*_LISTS, *_TEMPORARY), (*_queue("~", "celeryev.*"), *_queue("~", "*.celery.pidbox")))
    yield Grant(("llen", "rpush"), tuple(pattern for queue in _QUEUES for pattern in _queue("%W~", queue)))
    yield Grant(("zcard",), (f"%R~{keys.WAITING}",))


def _both(*patterns: str) -> Iterator[str]:
    return (f"~{pattern}" for pattern in patterns)


def _queues(host: str) -> Iterator[str]:
    """Messages are pushed to every queue, and taken from those of this host and of its classes."""
    yield f"%W~{keys.PREFIX}host.*"
    for queue in (f"host.{host}", f"host.{host}.stop", *_CLASSES):
        yield from _queue("~", queue)


def _queue(permission: str, name: str) -> tuple[str, str]:
    """The keys of a queue: one for each priority."""
    return f"{permission}{keys.PREFIX}{name}", f"{permission}{keys.PREFIX}{name}{_PRIORITY}"


def _celery_channels(database: int) -> tuple[str, ...]:
    """PSUBSCRIBE is compared literally: each pattern that Celery subscribes to stands here as it is."""
    return tuple(f"{keys.PREFIX}/{database}.{name}" for name in ("celery.pidbox", "celeryev/*"))
