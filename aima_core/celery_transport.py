"""Kombu's transports over Redis, made to outlive what makes no sense, and a connection that is lost twice.

Whatever somebody puts on a queue or says on the line of remote control would otherwise end the worker that takes it,
and some of it each worker that comes after: it is dropped with a warning, as a lost doorbell is, and rung for again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import structlog

_SENSELESS = (ValueError, TypeError, KeyError, AttributeError, IndexError)

_log = structlog.get_logger()


@cache
def outliving_nonsense(transport: Any) -> type[Any]:
    """The same transport, whose consumers go on after a message that cannot be made out."""

    class QoS(transport.Channel.QoS):  # type: ignore[misc]  # kombu is untyped
        def restore_unacked(self, client: Any = None) -> None:
            """Not once the connection is given up: asking for it would end the worker. Redis delivers them again."""
            if self.channel.connection is not None and self.channel.connection.client is not None:
                super().restore_unacked(client)

    class Channel(transport.Channel):  # type: ignore[misc]  # kombu is untyped
        def basic_consume(
            self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **how: Any
        ) -> Any:
            def take(message: Any) -> None:
                try:
                    callback(message)
                except _SENSELESS as wrong:
                    _drop(wrong, queue)
                    if not no_ack:
                        self.basic_reject(message.delivery_tag, requeue=False)

            return super().basic_consume(queue, no_ack, take, *args, **how)

        def _brpop_read(self, **options: Any) -> Any:
            return _read(super()._brpop_read, **options)

        def _receive(self) -> Any:
            return _read(super()._receive)

    Channel.QoS = QoS
    return type("Transport", (transport,), {"Channel": Channel})


def _read(read: Callable[..., Any], **options: Any) -> Any:
    try:
        return read(**options)
    except _SENSELESS as wrong:
        _drop(wrong, "of any")
        return None


def _drop(wrong: Exception, queue: str) -> None:
    _log.warning("dropped a message that makes no sense", queue=queue, reason=f"{type(wrong).__name__}: {wrong}")
