"""The directories and records of a model store, as the worker and its data plane read them.

.uses.json                    pins, and when each model was last used
<model>/<name>/files/…        published by one rename, after every file was verified; read-only
<model>/<name>/model.json     its manifest, and the size and time of each file when it was verified
<model>/<name>/journal        the SHA-256 of each piece, by which other hosts check what they get
.fetching/<model>/<name>/…    a running or interrupted fetch with its journal, until a retry completes it
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog
from pydantic import ValidationError

from aima_core.domain.ids import WireModel
from aima_core.domain.models import Manifest

FETCHING = ".fetching"
FILES = "files"
RECORD = "model.json"
JOURNAL = "journal"

_log = structlog.get_logger()


def place_of(root: Path, model: str, name: str, *, published: bool) -> Path:
    return (root if published else root / FETCHING) / model / name


class StoredModel(WireModel):
    """What `model.json` holds."""

    manifest: Manifest
    verified: Mapping[str, tuple[int, int]] = {}
    """Size and modification time, in nanoseconds, of each file when it was verified; empty while it is fetched."""


def record_of(place: Path) -> StoredModel | None:
    """None if there is none, or an unreadable one."""
    try:
        stored = StoredModel.model_validate_json((place / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as wrong:
        _log.warning("record of a model not readable", place=str(place), reason=str(wrong))
        return None
    return stored if place.parent.name == stored.manifest.model else None
