"""What a worker lets itself be told over Redis by Celery's remote control: to show itself, and nothing that changes it.

Flower asks workers for their queues and tasks, and has them tell of what they do. The same way, whoever gets into
Redis could end a worker, take its queues away or its threads: none of that is to be had here.
"""

from __future__ import annotations

from typing import Any

SHOWS = frozenset(
    {"ping", "stats", "active_queues", "registered", "active", "reserved", "scheduled", "revoked", "conf", "heartbeat"}
)
TELLS = frozenset({"enable_events", "disable_events"})
"""Whether it tells of tasks; they cost Redis two commands each, and are lost on nobody but Flower."""
_CONTROL = "celery.worker.consumer.control.Control"


def restrict_remote_control(worker: Any) -> None:
    """Before it begins. Raises KeyError where Celery has another way to be controlled than is known here."""
    node = worker.consumer.blueprint.steps[_CONTROL].box.node
    node.handlers = {name: node.handlers[name] for name in SHOWS | TELLS}
