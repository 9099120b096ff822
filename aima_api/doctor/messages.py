"""Whether somebody else writes to the queues, as `aima doctor` tells it: our own messages make sense to every host."""

from __future__ import annotations

from collections.abc import Iterator

from aima_api.doctor.finding import CheckStatus, Finding
from aima_core.errors import BrokerUnavailable
from aima_core.redis.connection import command_link
from aima_core.scheduling.explanation import join_with_and
from aima_core.settings import Settings
from aima_core.store.hosts import HostStore

OTHERS = "find who else writes to this Redis; give it a password, or AIMA a database of its own in `redis.url`"


def malformed_messages(settings: Settings) -> Iterator[Finding]:
    """Those of the last day; nothing where there are none, or Redis does not answer."""
    redis = command_link(settings.redis.url.get_secret_value())
    try:
        met = {host.name: host.messages_dropped for host in HostStore(redis).all() if host.messages_dropped}
    except BrokerUnavailable:
        return
    finally:
        redis.close()
    if met:
        said = f"{sum(met.values())} on our queues made no sense and were dropped, by {join_with_and(list(met))}"
        yield Finding("messages", CheckStatus.WARNING, said, OTHERS)
