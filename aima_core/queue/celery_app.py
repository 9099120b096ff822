"""The Celery application of workers, API nodes and Flower: its settings with their reasons, and its message format."""

import ssl
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from celery import Celery
from kombu import Connection

from aima_core.queue.transport import DroppedMessages, tolerant_transport
from aima_core.redis import keys
from aima_core.redis.connection import SentinelAddress, sentinel_address, to_sentinels, verified

RECONNECT_INTERVAL = timedelta(seconds=5)
"""The longest interval between two connection attempts: a worker is back this soon after any outage."""


class _Connection(Connection):
    dropped: DroppedMessages

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{"interval_max": RECONNECT_INTERVAL.total_seconds(), **options})

    def get_transport_cls(self) -> type[Any]:
        transport: Any = super().get_transport_cls()
        return tolerant_transport(transport, self.dropped)

    def info(self) -> dict[str, Any]:
        """Reported to Flower; leaves out the options for Sentinels, which hold a password."""
        info = super().info()
        options = {name: value for name, value in info["transport_options"].items() if name != "sentinel_kwargs"}
        return {**info, "transport_options": options}


def celery_app(redis_url: str, *, answer_within: timedelta, dropped: DroppedMessages | None = None) -> Celery:
    """`answer_within` is the timeout of one Redis command; malformed messages are counted in `dropped`."""
    app = Celery("aima", set_as_current=False)
    app.amqp.Connection = type("Connection", (_Connection,), {"dropped": dropped or DroppedMessages()})
    app.conf.update(
        result_backend=None,  # with one, a submission without Redis hangs for 19 s, and is a duplicate
        task_ignore_result=True,
        task_acks_late=True,  # the message of a worker that dies is redelivered
        worker_prefetch_multiplier=1,  # a worker reserves no message that another could execute
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        task_serializer="json",
        accept_content=["json"],  # a pickled message is rejected
        task_default_queue="unrouted",
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives any outage of Redis
        broker_channel_error_retry=True,  # also a Redis that is full or read-only, or whose password has changed
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,  # they cost two commands a task: Flower enables them while it runs
        task_send_sent_event=False,
        worker_enable_prefetch_count_reduction=False,  # it counts all threads as slots after a reconnect
        worker_hijack_root_logger=False,
        broker_transport_options={
            "global_keyprefix": keys.PREFIX,
            "visibility_timeout": 300,  # early redelivery is harmless: the claim detects duplicates
            "polling_interval": 2,  # the timeout of one poll, which also delays the shutdown of a worker
            "unacked_restore_interval": 60,  # a second net: lost messages are redelivered long before
            "unacked_restore_throttle": 1,
            "socket_timeout": answer_within.total_seconds(),
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 20,
        },
    )
    if address := sentinel_address(redis_url):
        _find_by_sentinels(app, address)
    else:
        app.conf.update(broker_url=verified(redis_url))
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
    user, password = (quote(text or "", safe="") for text in (address.user, address.password))
    credentials = f"{user}:{password}@" if password else ""
    # Each address is complete, since the transport fails over from one Sentinel to the next.
    urls = [f"sentinel://{credentials}{host}:{port}/{address.database}" for host, port in address.sentinels]
    options = {"master_name": address.master, "sentinel_kwargs": to_sentinels(address)}
    app.conf.update(
        broker_url=";".join(urls),
        broker_transport_options={**app.conf.broker_transport_options, **options},
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": address.ca_certs} if address.tls else None,
    )
