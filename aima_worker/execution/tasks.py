"""The Celery tasks: one per kind of operation. All they are told is the operation's id."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.exceptions import Reject

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Kind
from aima_core.errors import BadId, BrokerUnavailable
from aima_core.queue.notifier import task_name
from aima_worker.context import HostContext
from aima_worker.execution.cancellation import WorkerShutdown
from aima_worker.execution.executor import execute


def add_tasks(app: Celery, host: HostContext) -> None:
    def perform(*told: Any, **_: Any) -> None:
        try:
            execute(host, OperationId(" ".join(map(str, told))))
        except (WorkerShutdown, BrokerUnavailable, BadId) as undone:
            raise Reject(str(undone), requeue=not isinstance(undone, BadId)) from undone

    for kind in Kind:
        app.task(name=task_name(kind), shared=False)(perform)  # or every application of this process would have it
