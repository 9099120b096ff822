"""Kombu's transports over Redis, made to outlive what makes no sense, and a connection that is lost twice.

Whatever somebody puts on a queue or says on the line of remote control would otherwise end the worker that takes it,
and some of it each worker that comes after: it is dropped with a warning, as a lost doorbell is, and rung for again.
What is dropped is counted, since nobody but us should write there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

import structlog

_SENSELESS = (ValueError, TypeError, KeyError, AttributeError, IndexError)

_log = structlog.get_logger()


class DroppedMessages:
    """How many messages made no sense; counted wherever they come up, and told by whoever has time for it."""

    def __init__(self) -> None:
        self._untold = 0
        self._changing = Lock()

    def add(self) -> None:
        """Asks nobody, so that it can neither fail nor wait."""
        with self._changing:
            self._untold += 1

    def flush(self, to: Callable[[int], object]) -> None:
        """Say how many there were since it was said last; where that fails, they are said the next time."""
        if number := self._untold:
            to(number)
            with self._changing:
                self._untold -= number


@cache
def tolerant_transport(transport: Any, dropped: DroppedMessages) -> type[Any]:
    """The same transport, whose consumers go on after a message that cannot be made out."""

    class QoS(transport.Channel.QoS):  # type: ignore[misc]  # kombu is untyped
        """Says nothing of messages whose connection was given up: asking for it would end the worker.

        Redis delivers them again, and those that were done then are skipped.
        """

        def restore_unacked(self, client: Any = None) -> None:
            if self._is_connected():
                super().restore_unacked(client)

        def ack(self, delivery_tag: Any) -> None:
            if self._is_connected():
                super().ack(delivery_tag)

        def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
            if self._is_connected():
                super().reject(delivery_tag, requeue=requeue)

        def _is_connected(self) -> bool:
            return self.channel.connection is not None and self.channel.connection.client is not None

    class Channel(transport.Channel):  # type: ignore[misc]  # kombu is untyped
        def basic_consume(
            self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **how: Any
        ) -> Any:
            def take(message: Any) -> None:
                try:
                    callback(message)
                except _SENSELESS as wrong:
                    _drop(dropped, queue, wrong)
                    if not no_ack:
                        super(Channel, self).basic_reject(message.delivery_tag, requeue=False)

            return super().basic_consume(queue, no_ack, take, *args, **how)

        def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
            """By Celery: a task that there is not, a pickle, arguments that no task takes."""
            if not requeue:
                _drop(dropped, "of any", "Celery refused it")
            super().basic_reject(delivery_tag, requeue=requeue)

        def close(self) -> None:
            super().close()
            self._disconnect_pools()  # giving messages back has opened one more

        def _brpop_read(self, **options: Any) -> Any:
            return _read(super()._brpop_read, dropped, **options)

        def _receive(self) -> Any:
            return _read(super()._receive, dropped)

    Channel.QoS = QoS
    return type("Transport", (transport,), {"Channel": Channel})


def _read(read: Callable[..., Any], dropped: DroppedMessages, **options: Any) -> Any:
    try:
        return read(**options)
    except _SENSELESS as wrong:
        _drop(dropped, "of any", wrong)
        return None


def _drop(dropped: DroppedMessages, queue: str, why: Exception | str) -> None:
    dropped.add()
    reason = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
    _log.warning("dropped a message that makes no sense", queue=queue, reason=reason)
