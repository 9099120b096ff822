"""The fixtures that the attackers share."""

from __future__ import annotations

from api.access.conftest import guarded

__all__ = ["guarded"]
