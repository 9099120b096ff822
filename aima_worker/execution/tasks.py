"""The Celery tasks: one per kind of operation. The message carries the operation's id, the record has the rest."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.exceptions import Reject

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Kind
from aima_core.errors import BadId, BrokerUnavailable
from aima_core.queue.notifier import task_name
from aima_worker.attempt import WorkerShutdown
from aima_worker.context import HostContext
from aima_worker.execution.executor import execute


def add_tasks(app: Celery, host: HostContext) -> None:
    """An operation that could not be finished is requeued; a malformed id is dropped."""

    def run_task(*arguments: Any, **_: Any) -> None:
        try:
            execute(host, OperationId(" ".join(map(str, arguments))))
        except (WorkerShutdown, BrokerUnavailable, BadId) as unfinished:
            raise Reject(str(unfinished), requeue=not isinstance(unfinished, BadId)) from unfinished

    for kind in Kind:
        app.task(name=task_name(kind), shared=False)(run_task)  # shared, every application of the process would have it
