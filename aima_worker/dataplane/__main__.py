"""`python -m aima_worker.dataplane DIRECTORY`: a host's data plane, in the foreground."""

import sys
from pathlib import Path

import uvloop

from aima_core.errors import AimaError
from aima_core.logs.output import log_as_logfmt
from aima_core.logs.sanitize import sanitized_lines
from aima_core.system.hardening import deny_memory_access, forbid_new_privileges
from aima_worker.dataplane.server import serve


def main() -> int:
    deny_memory_access()
    forbid_new_privileges()
    log_as_logfmt()
    try:
        uvloop.run(serve(Path(sys.argv[1])))
    except (AimaError, OSError) as failed:
        sys.stderr.write(f"error: {sanitized_lines(failed)}\n")
        return getattr(failed, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
