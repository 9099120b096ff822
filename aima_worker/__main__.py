"""`python -m aima_worker`: this host's worker, in the foreground; with `--facts`, only its report as JSON."""

import sys
import warnings

from aima_core.errors import AimaError
from aima_core.logs.sanitize import sanitized_event, sanitized_lines
from aima_core.settings import load_settings


def main() -> int:
    sys.modules["rich"] = None  # type: ignore[assignment]  # or structlog loads it: three megabytes, for colours
    import structlog

    warnings.filterwarnings("ignore", "You're running the worker with superuser")  # access to Docker's socket is root's
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            sanitized_event,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    try:
        if sys.argv[1:] == ["--facts"]:
            from aima_worker.node.facts import machine_report

            sys.stdout.write(machine_report(load_settings()).model_dump_json() + "\n")
            return 0
        from aima_worker.app import run_worker

        return run_worker(load_settings())
    except AimaError as failed:
        sys.stderr.write(f"error: {sanitized_lines(failed)}\nhint: {failed.failure.hint}\ncode: {failed.code}\n")
        return failed.exit_code


if __name__ == "__main__":
    sys.exit(main())
