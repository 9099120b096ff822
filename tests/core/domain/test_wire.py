"""The wire has a version: what is newer than its reader is refused, what is older is read."""

from __future__ import annotations

import pytest

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
