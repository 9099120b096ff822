"""Asking an engine once whether it is well, after its start."""

from __future__ import annotations

from datetime import timedelta

from aima_worker.context import HostContext
from aima_worker.reconciler.inventory import ManagedContainer


def health_url(host: HostContext, known: ManagedContainer) -> str:
    return f"{endpoint(host, known)}{known.command.engine.health_check.path}"


def endpoint(host: HostContext, known: ManagedContainer) -> str:
    return f"http://{host.settings.host.address}:{known.port}"


def answers_well(host: HostContext, known: ManagedContainer) -> bool:
    try:
        return 200 <= host.probe(health_url(host, known)) < 300
    except OSError:
        return False


def patience_with(known: ManagedContainer) -> timedelta:
    """How long it may load."""
    check = known.command.engine.health_check
    return max(check.timeout, check.at_most or timedelta())
