"""The one Celery application, its settings with their reasons."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote

from celery import Celery
from kombu import Connection

from aima_core.queue.transport import DroppedMessages, tolerant_transport
from aima_core.redis import keys
from aima_core.redis.connection import SentinelAddress, sentinel_address, to_sentinels

RECONNECTS_WITHIN_SECONDS = 5
"""The longest pause between two tries: whatever the outage, a worker is back this soon after its end."""


class _Connection(Connection):
    dropped: DroppedMessages

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{"interval_max": RECONNECTS_WITHIN_SECONDS, **options})

    def get_transport_cls(self) -> type[Any]:
        transport: Any = super().get_transport_cls()
        return tolerant_transport(transport, self.dropped)

    def info(self) -> dict[str, Any]:
        """What Flower is told when it asks a worker: nothing of how the Sentinels are spoken to, password included."""
        told = super().info()
        options = {name: value for name, value in told["transport_options"].items() if name != "sentinel_kwargs"}
        return {**told, "transport_options": options}


def celery_app(redis_url: str, *, answer_within: float, dropped: DroppedMessages | None = None) -> Celery:
    """The application both sides use; `answer_within` is how many seconds Redis may take over one command.

    What its workers drop since it makes no sense is counted in `dropped`.
    """
    app = Celery("aima", set_as_current=False)
    app.amqp.Connection = type("Connection", (_Connection,), {"dropped": dropped or DroppedMessages()})
    app.conf.update(
        result_backend=None,  # with one, a submission without Redis hangs for 19 s, and what was done is done twice
        task_ignore_result=True,
        task_acks_late=True,  # a worker that dies leaves its message to be delivered again
        worker_prefetch_multiplier=1,  # and hoards nothing that another could run
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        task_serializer="json",
        accept_content=["json"],  # a pickled message is refused
        task_default_queue="unrouted",
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives any outage of Redis
        broker_channel_error_retry=True,  # and a Redis that is full, or read-only, or knows another password by now
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,  # they cost two commands a task: Flower turns them on while it is there
        task_send_sent_event=False,
        worker_enable_prefetch_count_reduction=False,  # it would count all threads as slots after a reconnection
        worker_hijack_root_logger=False,
        broker_transport_options={
            "global_keyprefix": keys.PREFIX,
            "visibility_timeout": 300,  # a redelivered message is recognised by its claim, so sooner is no danger
            "polling_interval": 2,  # how long one look at the queues waits: a worker that is to end waits for it, too
            "unacked_restore_interval": 60,  # a second net: lost doorbells are rung again long before
            "unacked_restore_throttle": 1,
            "socket_timeout": answer_within,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 20,
        },
    )
    if address := sentinel_address(redis_url):
        _find_by_sentinels(app, address)
    else:
        app.conf.update(broker_url=_verified(redis_url))
    return app


def sent_message(task: str, id: str, *, kwargs: dict[str, str], queue: str) -> dict[str, Any]:
    """A task's message as Celery and kombu encode it: sent to a broker in memory, and read back undecoded."""
    app = Celery("aima", set_as_current=False, broker="memory://")
    with app.connection_for_write() as connection:
        app.send_task(task, args=[id], kwargs=kwargs, task_id=id, queue=queue, connection=connection)
        in_memory: Any = connection.default_channel
        message: dict[str, Any] = in_memory._get(queue)
    message["headers"]["origin"] = "aima"
    del message["properties"]["reply_to"]  # AIMA reads no results
    return message


def _find_by_sentinels(app: Celery, address: SentinelAddress) -> None:
    credentials = (
        f"{quote(address.user or '', safe='')}:{quote(address.password, safe='')}@" if address.password else ""
    )
    # Each Sentinel's address has all of it, since the transport goes on with another's when one fails.
    urls = [f"sentinel://{credentials}{host}:{port}/{address.database}" for host, port in address.sentinels]
    options = {"master_name": address.master, "sentinel_kwargs": to_sentinels(address)}
    app.conf.update(
        broker_url=";".join(urls),
        broker_transport_options={**app.conf.broker_transport_options, **options},
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": address.ca_certs} if address.tls else None,
    )


def _verified(redis_url: str) -> str:
    """`rediss://` alone would take any certificate."""
    if redis_url.startswith("rediss://") and "ssl_cert_reqs" not in redis_url:
        return f"{redis_url}{'&' if '?' in redis_url else '?'}ssl_cert_reqs=required"
    return redis_url
