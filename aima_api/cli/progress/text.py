"""How times, sizes, progress and ends are put into words, alike for plain lines and for the moving display."""

from __future__ import annotations

from datetime import timedelta

from aima_api.cli.progress.tracker import OperationTracker, share_done
from aima_core.domain.operations import Phase, PullProgress
from aima_core.domain.units import format_size


def span(time: timedelta) -> str:
    """`0.3 s`, `42 s`, `3 min 20 s`, `1 h 5 min`."""
    seconds = time.total_seconds()
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def amounts(progress: PullProgress) -> str:
    """`12 MB of ≥ 98 MB downloaded, 3 MB extracted`."""
    return f"{downloaded(progress)}, {extracted(progress)}"


def downloaded(progress: PullProgress) -> str:
    if not progress.total:
        total = "an unknown total"
    else:
        total = format_size(progress.total) if progress.total_known else f"≥ {format_size(progress.total)}"
    anew = f" ({progress.restarts} × begun anew)" if progress.restarts else ""
    return f"{format_size(progress.downloaded)} of {total} downloaded{anew}"


def extracted(progress: PullProgress) -> str:
    return f"{format_size(progress.extracted)} extracted"


def pace(progress: PullProgress) -> str:
    """`4.1 MB/s, 21 s left`, as far as it is known."""
    rate = [f"{format_size(progress.rate)}/s"] if progress.rate else []
    left = [f"{span(progress.eta)} left"] if progress.eta is not None else []
    return ", ".join(rate + left)


def percent(progress: PullProgress) -> str:
    share = share_done(progress)
    return "" if share is None else f"{share:.0%}"


def phase_times(track: OperationTracker) -> str:
    """`queued 0.1 s, pulling 12 s, loading 3.2 s`: those that took any time."""
    return ", ".join(f"{phase} {span(taken)}" for phase, taken in track.times() if taken >= timedelta(seconds=0.05))


def success(track: OperationTracker) -> str:
    """`ready in 12 s at http://…`."""
    where = f" at {track.endpoint}" if track.endpoint else ""
    return f"{track.phase} in {span(track.total_time)}{where}"


def title(track: OperationTracker) -> str:
    """`svc-asr-x on spark-01`."""
    return f"{track.subject} on {track.host}" if track.host else track.subject


def doing(track: OperationTracker) -> str:
    """What `title` is about, as a thing: `the start`."""
    return f"the {track.operation.kind}"


PHASE_ENDS = {Phase.READY: "✓", Phase.PULLED: "✓", Phase.STOPPED: "✓", Phase.FAILED: "✗", Phase.CANCELLED: "✗"}
