"""`python -m aima_api.gateway`: serves a gateway until a signal."""

from __future__ import annotations

import sys

from aima_api.__main__ import run
from aima_api.gateway.app import serve

if __name__ == "__main__":
    sys.exit(run(serve))
