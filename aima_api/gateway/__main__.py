"""`python -m aima_api.gateway`: serves a gateway until a signal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from aima_api.process import run

if TYPE_CHECKING:
    from aima_core.settings import Settings


def _load() -> Callable[[Settings], None]:
    from aima_api.gateway.app import serve

    return serve


if __name__ == "__main__":
    sys.exit(run(_load))
