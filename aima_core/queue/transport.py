"""Kombu's Redis transport made tolerant of malformed messages, and of a connection that is lost twice.

A malformed message would end the worker that receives it, and after its redelivery the next one: it is dropped with a
warning and counted, and its operation is redelivered.
"""

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

import structlog

_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError)

_log = structlog.get_logger()


class DroppedMessages:
    """The number of malformed messages: counted by consumers, reported by the heartbeat."""

    def __init__(self) -> None:
        self._unreported = 0
        self._lock = Lock()

    def add(self) -> None:
        """Does no I/O, so that it can neither fail nor block."""
        with self._lock:
            self._unreported += 1

    def flush(self, to: Callable[[int], object]) -> None:
        """Reports those since the last flush; if that fails, they are reported the next time."""
        if number := self._unreported:
            to(number)
            with self._lock:
                self._unreported -= number


@cache
def tolerant_transport(transport: Any, dropped: DroppedMessages) -> type[Any]:
    """The same transport, whose consumers drop malformed messages."""

    class QoS(transport.Channel.QoS):  # type: ignore[misc]  # kombu is untyped
        """Does not acknowledge messages whose connection was closed: the lookup would end the worker.

        Redis redelivers them, and the claim refuses those already executed.
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
            self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **options: Any
        ) -> Any:
            def consume(message: Any) -> None:
                try:
                    callback(message)
                except _MALFORMED as wrong:
                    _drop(dropped, queue, wrong)
                    if not no_ack:
                        super(Channel, self).basic_reject(message.delivery_tag, requeue=False)

            return super().basic_consume(queue, no_ack, consume, *args, **options)

        def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
            """Called by Celery for an unknown task, a pickle, or wrong arguments."""
            if not requeue:
                _drop(dropped, "unknown", "Celery rejected it")
            super().basic_reject(delivery_tag, requeue=requeue)

        def close(self) -> None:
            super().close()
            self._disconnect_pools()  # requeueing messages has opened another

        def _brpop_read(self, **options: Any) -> Any:
            return _read(super()._brpop_read, dropped, **options)

        def _receive(self) -> Any:
            return _read(super()._receive, dropped)

    Channel.QoS = QoS
    return type("Transport", (transport,), {"Channel": Channel})


def _read(read: Callable[..., Any], dropped: DroppedMessages, **options: Any) -> Any:
    try:
        return read(**options)
    except _MALFORMED as wrong:
        _drop(dropped, "unknown", wrong)
        return None


def _drop(dropped: DroppedMessages, queue: str, why: Exception | str) -> None:
    dropped.add()
    reason = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
    _log.warning("malformed message dropped", queue=queue, reason=reason)
