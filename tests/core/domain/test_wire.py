"""The wire has a version: what is newer than its reader is refused, what is older is read."""

from __future__ import annotations

import pytest

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.domain.wire import WIRE_VERSION, require_known_version
from aima_core.errors import NewerVersion


def test_a_newer_version_is_refused_with_both_versions_and_what_to_do():
    with pytest.raises(NewerVersion) as refused:
        require_known_version(WIRE_VERSION + 1)

    assert f"version {WIRE_VERSION + 1}" in str(refused.value)
    assert f"knows {WIRE_VERSION}" in str(refused.value)
    assert "Upgrade AIMA on that host" in refused.value.failure.hint


@pytest.mark.parametrize("version", [WIRE_VERSION, WIRE_VERSION - 1])
def test_the_same_and_older_versions_are_known(version):
    require_known_version(version)


def test_a_record_with_other_valid_values_equals_a_copy_with_them():
    id = ServiceId("svc-tiny-dial").on(HostName("alpha"))
    record = Instance(id=id, desired=Desired.RUNNING, fence=1, state=InstanceState.READY, since="2026-01-01T00:00:00Z")
    before = record.model_dump()

    changed, copied = record.with_valid(fence=2, engine=None), record.model_copy(update={"fence": 2, "engine": None})

    assert changed == copied
    assert changed.model_fields_set == copied.model_fields_set
    assert changed.model_dump_json(exclude_unset=True) == copied.model_dump_json(exclude_unset=True)
    assert record.model_dump() == before
