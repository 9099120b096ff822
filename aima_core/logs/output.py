"""Log output of API nodes and workers: one logfmt line per event on stderr, for the journal and for other programs."""

import sys

from aima_core.logs.sanitize import sanitized_event


def log_as_logfmt() -> None:
    sys.modules["rich"] = None  # type: ignore[assignment]  # or structlog loads it: three megabytes, for colours
    import structlog

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
        cache_logger_on_first_use=True,  # otherwise each event assembles its logger again
    )
