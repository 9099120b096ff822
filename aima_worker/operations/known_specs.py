"""The signed specs of the services that this host has run: kept on its disk, and restored when Redis has lost its data.

So stopped services come back, too. A spec that a person has removed is dropped within seconds, unless this host is away
concurrently. A host can restore signed specs only.
"""

from collections.abc import Collection

import structlog

from aima_core.domain.ids import ServiceId, SignedText
from aima_core.errors import UnverifiedService
from aima_core.trust.records import SignedRecord, SignedService
from aima_worker.context import HostContext
from aima_worker.node.heartbeat import RedisState

_log = structlog.get_logger()


def keep_spec(host: HostContext, service: ServiceId, spec: SignedText) -> None:
    """Keeps the spec of a service that is started here, if it verifies. A failure does not fail the start."""
    try:
        record = SignedService.verified(spec, host.keys, id=service).record
    except UnverifiedService as refused:
        _log.warning("spec not kept", service=service, reason=str(refused))
    else:
        _keep(host, service, record)


def restore_specs(host: HostContext) -> None:
    """After Redis has lost its data. Of the versions that several hosts restore, the newest wins.

    Raises BrokerUnavailable; it may be called again.
    """
    if restored := host.services.restore(host.fences.records()):
        _log.warning("specs restored", services=restored)


def drop_removed_specs(host: HostContext, *, present: Collection[ServiceId]) -> None:
    """Drops specs without a record in Redis: a person removed them. Those `present` here have one.

    Race: a missing record means data loss in any data set but the one to which this host has restored its specs, so
    both are read at once. Raises BrokerUnavailable.
    """
    absent = host.fences.records().keys() - present
    if not absent:
        return
    epoch, missing = host.services.missing(sorted(absent))
    if missing and epoch is not None and epoch == RedisState.of(host).epoch:
        _log.info("specs of removed services dropped", services=missing)
        for service in missing:
            _keep(host, service, None)


def _keep(host: HostContext, service: ServiceId, record: SignedRecord | None) -> None:
    try:
        host.fences.keep(service, record)
    except OSError as failed:
        _log.warning("spec not written", service=service, reason=str(failed))
