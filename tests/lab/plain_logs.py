"""Console logs with plain tracebacks: rich's, with local variables, take seconds of a busy machine."""

from __future__ import annotations

from typing import Any

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback


def log_plainly(**configuration: Any) -> None:
    *processors, _ = structlog.get_config()["processors"]
    renderer = ConsoleRenderer(colors=False, exception_formatter=plain_traceback)
    structlog.configure(processors=[*processors, renderer], **configuration)
