"""The results: one table for people, one document for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from bench.comparison import Bounded, Result

_HEADINGS = ("what", "ours", "theirs", "ratio", "figure", "goal", "")


def as_table(results: Sequence[Result]) -> str:
    rows = [_HEADINGS, *(_row(each) for each in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(_line(row, widths) for row in rows)


def as_json(results: Sequence[Result]) -> str:
    return json.dumps([_record(each) for each in results], indent=2, ensure_ascii=False)


def _row(each: Result) -> tuple[str, ...]:
    verdict = "met" if each.met else "not met"
    if isinstance(each, Bounded):
        return each.what, "", "", "", each.reported(each.figure), each.goal, verdict if each.goal else ""
    return (
        each.what,
        _seconds(median(each.ours)),
        _seconds(median(each.theirs)),
        f"{each.ratio:.3f}",
        each.goal.reported(each.figure),
        str(each.goal),
        verdict,
    )


def _record(each: Result) -> dict[str, object]:
    if isinstance(each, Bounded):
        return {**asdict(each), "figure": each.reported(each.figure), "goal": each.goal or None, "met": each.met}
    judged = {"ratio": each.ratio, "figure": each.goal.reported(each.figure), "goal": str(each.goal), "met": each.met}
    return {**asdict(each), **judged}


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, verdict = row
    cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(numbers, widths[1:], strict=False))]
    return "  ".join([*cells, verdict]).rstrip()


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
