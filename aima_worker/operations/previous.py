"""The previous revision of an instance: reserved while a candidate starts, restored if the candidate fails.

The host remembers its container's labels on disk before it touches anything, and keeps its port and its memory
reserved until the candidate is ready. So the host restores it alone, also after a crash of the worker, or after Redis
has lost its data.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import structlog

from aima_core.domain.ids import OperationId, ServiceId, SignedText, WireModel
from aima_core.domain.operations import State
from aima_core.domain.services import GONE, Instance, InstanceState
from aima_core.errors import AimaError, BrokerUnavailable, DockerUnavailable, FenceNotRecorded
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import PORT_LABEL
from aima_worker.operations.known_specs import keep_spec
from aima_worker.operations.managed import ManagedContainer, recognize, restore_resources, spec_as_it_was
from aima_worker.operations.teardown import GRACE, remove_container
from aima_worker.runtime import Container, Status

WAS_READY = (InstanceState.READY, InstanceState.UNHEALTHY, InstanceState.RESTARTING, InstanceState.UNKNOWN)

_log = structlog.get_logger()


class PreviousRevision(WireModel):
    """A container that a change replaces: its labels suffice to run it again as it was."""

    instance: Instance
    labels: Mapping[str, str]
    image_id: str | None = None
    """Of the image that it ran: its reference may lead to another one by now."""


class Candidate(WireModel):
    """An instance that is ready, of a change of several: the change is made once all of its starts have succeeded."""

    operation: OperationId
    change: tuple[OperationId, ...]
    spec: SignedText


class Outcome(StrEnum):
    """Of a change of several instances. Every host finds the same: starts that have ended stay as they are."""

    OPEN = "open"
    MADE = "made"
    """All starts have succeeded, or another host has made the spec the current one."""
    FAILED = "failed"


def remember_previous(host: HostContext, before: Instance | None, *, operation: OperationId) -> None:
    """Remembers what runs before an operation changes it; an earlier change that was not made keeps what it remembered.

    Raises FenceNotRecorded, DockerUnavailable, BrokerUnavailable.
    """
    if before is None or before.operation == operation:
        return
    service = before.id.service
    if candidate := host.fences.candidate(service):
        if outcome_of(host, service, candidate) is Outcome.MADE:
            make_current(host, before, candidate.spec)
        else:  # its instance here was never the current revision
            host.fences.remember(service, host.fences.previous(service))
            return
    if before.state in GONE:
        host.fences.remember(service, None)
    if before.state not in WAS_READY or host.fences.previous(service):
        return
    found = host.runtime.find(host.container_name(service))
    managed = recognize(host, found) if found else None
    if managed is None:
        return
    image = host.runtime.image(managed.image) if managed.image else None
    previous = PreviousRevision(instance=before, labels=managed.container.labels, image_id=image and image.id)
    try:
        host.fences.remember(service, previous)
    except OSError as failed:
        raise FenceNotRecorded(host=host.name, service=service, detail=f"{failed}.") from failed
    if fetches := managed.command.fetches:
        host.models.uses.begin(fetches)  # race: a removal that has read no previous revision yet


def reserved_port(host: HostContext, service: ServiceId) -> int | None:
    """The port of the previous revision, which stays leased until the change is made."""
    previous = host.fences.previous(service)
    return int(previous.labels[PORT_LABEL]) if previous else None


def propose(host: HostContext, service: ServiceId, candidate: Candidate) -> None:
    """The candidate is ready, and other starts of its change may not be. Raises FenceNotRecorded."""
    try:
        host.fences.remember(service, host.fences.previous(service), candidate)
    except OSError as failed:
        raise FenceNotRecorded(host=host.name, service=service, detail=f"{failed}.") from failed


def outcome_of(host: HostContext, service: ServiceId, candidate: Candidate) -> Outcome:
    """Raises BrokerUnavailable."""
    states = host.operations.states(candidate.change)
    if all(state is State.SUCCEEDED for state in states):
        return Outcome.MADE
    if all(state and (state is State.SUCCEEDED or not state.ended) for state in states):
        return Outcome.OPEN
    # Race: read after the states, since a host makes the spec the current one before its own start ends.
    return Outcome.MADE if host.services.has_current(service, candidate.spec) else Outcome.FAILED


def make_current(host: HostContext, instance: Instance, spec: SignedText | None) -> None:
    """Makes the instance's spec the current one of its service, and drops the previous revision.

    Every step can be repeated, so that a crash in between loses nothing. Raises BrokerUnavailable.
    """
    if spec is not None:
        keep_spec(host, instance.id.service, spec)
        host.services.restore({instance.id.service: spec})
    settle_change(host, instance)


def settle_change(host: HostContext, instance: Instance) -> None:
    """The candidate is ready: nothing is kept for the previous revision any more. Idempotent."""
    service, port = instance.id.service, reserved_port(host, instance.id.service)
    if port is not None and port != instance.port:
        host.ports.release(instance.id, fence=instance.fence, port=port)
    host.fences.remember(service, None)


def restore_previous(host: HostContext, current: Instance, *, why: AimaError | None = None) -> bool:
    """Runs the previous revision again, or lets it run on: its container's name, port, allocation and status.

    `current` is the instance as the failed change left it; its fence stays. False if there is no previous revision, or
    it cannot run any more. Raises BrokerUnavailable, DockerUnavailable: then it is called again.
    """
    service = current.id.service
    with host.service_lock(service):
        previous = host.fences.previous(service)
        managed = _previous_container(host, service, previous) if previous else None
        if previous is None or managed is None:
            return False
        restored = previous.instance.model_copy(update={"fence": current.fence, "since": now()})
        there = host.runtime.find(managed.container.name)
        runs_on = there is not None and there.labels == previous.labels and there.status is Status.RUNNING
        try:
            if not runs_on:
                restored = restored.model_copy(update={"state": InstanceState.RESTARTING})
                _run_again(host, managed, previous)
        except (BrokerUnavailable, DockerUnavailable):
            raise
        except AimaError as failed:
            _log.warning("previous revision not restored", instance=current.id, reason=str(failed))
            if why:
                why.conclude(f"The previous revision could not be restored: {failed}")
            host.fences.remember(service, None)
            return False
        restore_resources(host, managed, restored)
        host.services.set_desired(restored)
        host.services.update_status(restored)
        host.fences.remember(service, None)
    revision = f"revision {restored.revision}" if restored.revision else "the previous revision"
    _log.warning("previous revision restored", instance=current.id, revision=restored.revision, ran_on=runs_on)
    if why:
        how = "runs on as before" if runs_on else "was started again"
        why.conclude(f"On {host.name}, {revision} {how}, on port {managed.port}.")
    return True


def _run_again(host: HostContext, managed: ManagedContainer, previous: PreviousRevision) -> None:
    spec = spec_as_it_was(host, managed)
    image = host.runtime.image(managed.image) if managed.image else None
    if previous.image_id and (image is None or image.id != previous.image_id):
        spec = spec.model_copy(update={"image": previous.image_id})
    remove_container(host, managed.service, grace=GRACE)
    host.runtime.run(spec)


def _previous_container(host: HostContext, service: ServiceId, previous: PreviousRevision) -> ManagedContainer | None:
    name = host.container_name(service)
    container = Container(id="", name=name, status=Status.EXITED, labels=previous.labels, image="")
    return recognize(host, container)
