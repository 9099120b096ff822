"""The wire has a version: what is newer than its reader is refused, what is older is read."""

from __future__ import annotations

import pytest

from aima_core.domain.ids import HostName
from aima_core.domain.wire import WIRE_VERSION, require_known_version
from aima_core.errors import NewerVersion

HOST = HostName("spark-01")


def test_a_newer_version_is_refused_with_both_versions_and_the_host_to_upgrade():
    with pytest.raises(NewerVersion) as refused:
        require_known_version(WIRE_VERSION + 1, host=HOST)

    assert f"version {WIRE_VERSION + 1}" in str(refused.value)
    assert "Upgrade AIMA on spark-01" in refused.value.failure.hint


@pytest.mark.parametrize("version", [WIRE_VERSION, WIRE_VERSION - 1])
def test_the_same_and_older_versions_are_known(version):
    require_known_version(version, host=HOST)
