"""Starts of the test engine, which fails on request."""

from __future__ import annotations

from typing import Any

from engines.conftest import engine_of
from lab.commands import SERVICE

from aima_core.domain.fields import Scalar
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import StartService

DIAL_IMAGE = "aima/dial:1"


def a_dial(
    service: str = SERVICE, *, port: int | None = None, dialled: dict[str, Scalar] | None = None
) -> StartService:
    """A start of the catalog entry with these arguments: `a_dial(dialled={"load-seconds": 5})`."""
    entry = engine_of("dial-cpu")
    engine = entry.model_copy(update={"arguments": {**entry.arguments, **(dialled or {})}})
    return StartService(service=ServiceId(service), engine=engine, port=port)


def a_dial_from(image: str, **facts: Any) -> StartService:
    """The dial with another image and these facts; its size is unknown unless given."""
    engine = engine_of("dial-cpu").model_copy(update={"image": image, "image_size": None, "pull": "missing", **facts})
    return StartService(service=SERVICE, engine=engine)
