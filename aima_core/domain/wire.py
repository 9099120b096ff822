"""What every record and event that travels has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """What travels. Unknown fields are dropped, so that a newer sender does not break an older reader."""

    model_config = ConfigDict(frozen=True, extra="ignore")
