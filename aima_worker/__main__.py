"""`python -m aima_worker`: this host's worker, in the foreground.

With `--facts`, only its report as JSON; with `--remove-network`, it removes the network of the engines and its firewall
rules, as AIMA is uninstalled.
"""

import gc
import sys
import warnings

from aima_core.errors import AimaError
from aima_core.logs.output import log_as_logfmt
from aima_core.logs.sanitize import sanitized_lines
from aima_core.settings import load_settings
from aima_core.system.hardening import deny_memory_access


def main() -> int:
    deny_memory_access()  # before it reads any key
    warnings.filterwarnings("ignore", "You're running the worker with superuser")  # access to Docker's socket is root's
    log_as_logfmt()
    try:
        if sys.argv[1:] == ["--facts"]:
            from aima_worker.node.facts import machine_report

            sys.stdout.write(machine_report(load_settings()).model_dump_json() + "\n")
            return 0
        if sys.argv[1:] == ["--remove-network"]:
            from aima_worker.runtime_selection import remove_network

            remove_network(load_settings())
            return 0
        gc.disable()  # imports leave little garbage, and each collection would traverse all that they have created
        from aima_worker.app import run_worker

        gc.enable()
        return run_worker(load_settings())
    except AimaError as failed:
        sys.stderr.write(f"error: {sanitized_lines(failed)}\nhint: {failed.failure.hint}\ncode: {failed.code}\n")
        return failed.exit_code


if __name__ == "__main__":
    sys.exit(main())
