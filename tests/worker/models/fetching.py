"""A process that fetches the model of a manifest into a store, to be killed: `fetching.py STORE STATE MANIFEST`."""

from __future__ import annotations

import sys
from pathlib import Path

from aima_core.domain.ids import HostName
from aima_core.domain.models import Manifest
from aima_core.settings import Settings
from aima_worker.models.fetch import FetchOrder, ModelFetch
from aima_worker.models.store import ModelStore


def main(store: str, state: str, manifest: str) -> None:
    host = {"name": "alpha", "disk_reserve": "1kB", "model_store": store}
    settings = Settings.model_validate({"state_dir": state, "host": host})
    order = FetchOrder(Manifest.model_validate_json(Path(manifest).read_text()), None)
    for _ in ModelFetch(ModelStore(Path(store), host=HostName("alpha")), order, settings):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
