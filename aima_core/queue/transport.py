"""Kombu's Redis transport made tolerant of malformed messages, and of a connection that is lost twice.

A malformed message would end the worker that receives it, and after its redelivery the next one: it is dropped with a
warning and counted, and its operation is redelivered. A message is measured before it is decoded, and a compressed one
is never decompressed: AIMA sends none.
"""

from collections.abc import Callable
from functools import cache, partial
from queue import Empty
from threading import Lock
from typing import Any

import structlog
from kombu.transport.redis import PrefixedRedisPubSub, PrefixedStrictRedis
from kombu.transport.virtual import Message
from pydantic import ByteSize
from redis import RedisError

MESSAGE_LIMIT = ByteSize(256 << 10)
"""Of one message before it is decoded. AIMA's own have 2 KB; the replies that Flower reads are the largest."""
_OUTAGES = (OSError, RedisError)
"""Celery connects again after these; any other exception is due to the message."""

_REASON_LENGTH = 500
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
    channel = transport.Channel
    qos = type("QoS", (_TolerantQoS, channel.QoS), {"dropped": dropped})
    parts = {"QoS": qos, "Message": _UncompressedMessage, "dropped": dropped}
    return type("Transport", (transport,), {"Channel": type("Channel", (_TolerantChannel, channel), parts)})


_Kombu: Any = object
"""The base of the mixins below, whose `super()` is a class of kombu, which is untyped."""


class _TolerantQoS(_Kombu):  # type: ignore[misc]
    """Does not acknowledge messages whose connection was closed: the lookup would end the worker.

    Redis redelivers them, and the claim refuses those already executed.
    """

    dropped: DroppedMessages

    def restore_unacked(self, client: Any = None) -> None:
        if self._is_connected():
            super().restore_unacked(client)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Forgets a message that cannot be requeued: it would prevent the requeueing of all others."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except _OUTAGES:
            raise
        except Exception as wrong:  # noqa: BLE001 whatever another writer put there
            drop(self.dropped, "unacked", wrong)
            self._remove_from_indices(tag).execute()

    def ack(self, delivery_tag: Any) -> None:
        if self._is_connected():
            super().ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        if self._is_connected():
            super().reject(delivery_tag, requeue=requeue)

    def _is_connected(self) -> bool:
        return self.channel.connection is not None and self.channel.connection.client is not None


class _TolerantChannel(_Kombu):  # type: ignore[misc]
    dropped: DroppedMessages

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **options: Any
    ) -> Any:
        def consume(message: Any) -> None:
            try:
                callback(message)
            except _OUTAGES:
                raise
            except Exception as wrong:  # noqa: BLE001 the error boundary of a message: it must not end the worker
                self._drop_received(message, queue, wrong, no_ack=no_ack)

        return super().basic_consume(queue, no_ack, consume, *args, **options)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Called by Celery for an unknown task, a pickle, or wrong arguments."""
        if not requeue:
            drop(self.dropped, "unknown", "Celery rejected it")
        super().basic_reject(delivery_tag, requeue=requeue)

    def close(self) -> None:
        super().close()
        self._disconnect_pools()  # requeueing messages has opened another

    def _drop_received(self, message: Any, queue: str, wrong: Exception, *, no_ack: bool) -> None:
        if message.acknowledged:  # counted if it was rejected
            _log.exception("message handler failed", queue=queue)
            return
        drop(self.dropped, queue, wrong)
        if not no_ack:
            super().basic_reject(message.delivery_tag, requeue=False)

    def _brpop_read(self, **options: Any) -> Any:
        return self._read(super()._brpop_read, **options)

    def _receive_one(self, client: Any) -> Any:
        try:
            return self._read(partial(super()._receive_one, client))
        except Empty:  # kombu's own way to skip what is no JSON
            drop(self.dropped, "control", "it is no JSON")
            return None

    def _read(self, read: Callable[..., Any], **options: Any) -> Any:
        try:
            return read(**options)
        except (Empty, *_OUTAGES):
            raise
        except Exception as wrong:  # noqa: BLE001 the error boundary of a read, such as of deeply nested JSON
            drop(self.dropped, "unknown", wrong)
            return None

    def _get_client(self) -> Any:
        return partial(_LimitedRedis, global_keyprefix=self.global_keyprefix)


class _UncompressedMessage(Message):  # kombu is untyped
    """Raises ValueError for a compressed message, which kombu would decompress here, whatever its size."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        if (payload.get("headers") or {}).get("compression"):
            raise ValueError("it is compressed")
        super().__init__(payload, channel=channel, **options)


class _LimitedRedis(PrefixedStrictRedis):  # kombu is untyped
    """Raises ValueError for a message beyond MESSAGE_LIMIT."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP" and reply:
            _check_size(reply[-1])
        return reply

    def pubsub(self, **options: Any) -> Any:
        return _LimitedPubSub(self.connection_pool, global_keyprefix=self.global_keyprefix, **options)


class _LimitedPubSub(PrefixedRedisPubSub):  # kombu is untyped
    """Raises ValueError for a message beyond MESSAGE_LIMIT."""

    def parse_response(self, *args: Any, **options: Any) -> Any:
        reply = super().parse_response(*args, **options)
        if reply:
            _check_size(reply[-1])
        return reply


def _check_size(data: Any) -> None:
    if isinstance(data, bytes | str) and len(data) > MESSAGE_LIMIT:
        raise ValueError(f"it has {len(data)} bytes, and the limit is {MESSAGE_LIMIT}")


def drop(dropped: DroppedMessages, queue: str, why: Exception | str) -> None:
    dropped.add()
    reason = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
    _log.warning("malformed message dropped", queue=queue, reason=reason[:_REASON_LENGTH])
