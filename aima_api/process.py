"""The process of an API node or a gateway: it serves with the loaded settings until a signal."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from aima_core.errors import AimaError
from aima_core.logs.output import log_as_logfmt
from aima_core.logs.sanitize import sanitized_lines
from aima_core.settings import Settings, load_settings
from aima_core.system.hardening import deny_memory_access


def run(load: Callable[[], Callable[[Settings], None]]) -> int:
    """Serves, and prints why it could not; `load` imports what does. Returns the exit code."""
    deny_memory_access()  # before it reads any key
    log_as_logfmt()
    try:
        gc.disable()  # imports leave little garbage, and each collection would traverse all that they have created
        serve = load()
        gc.enable()
        serve(load_settings())
    except AimaError as error:
        sys.stderr.write(f"error: {sanitized_lines(error)}\nhint: {error.failure.hint}\ncode: {error.code}\n")
        return error.exit_code
    return 0
