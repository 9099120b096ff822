"""Runs the tests of a fault in a copy of the project without its mechanism."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.running import ROOT
from switches.table import Switch

LONGEST = 400
"""Seconds for the tests of one switch."""
_PYTEST = ("-m", "pytest", "-qx", "--tb=short", "-o", f"cache_dir={ROOT / '.pytest_cache'}")
_FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)
_WHY = re.compile(r"^E   +\S.*", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """The test that failed; None if all passed or none could run."""

    noticed_by: str | None
    said: str

    def __str__(self) -> str:
        if self.noticed_by is None:
            return f"nobody notices\n{self.said}"
        return "\n".join([f"noticed by {self.noticed_by}", *_WHY.findall(self.said)[:3]])


def copy_of_the_project(directory: Path) -> Path:
    """All that git would commit. It uses this project's Python environment, and its own code."""
    copy = directory / "project"
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (source := ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name)
    return copy


def played_without(switch: Switch, copy: Path) -> Outcome:
    """Run the switch's tests in a copy of the project without the mechanism.

    They acquire the lock on the Docker Engine, so the caller must not hold it.
    """
    with _edited(switch, copy):
        try:
            ran = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-qx",
                    "--tb=short",
                    "-o",
                    f"cache_dir={ROOT / '.pytest_cache'}",
                    *switch.fails,
                ],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=LONGEST,
                check=False,
            )
        except subprocess.TimeoutExpired as hung:
            return Outcome(None, f"the tests did not end in {hung.timeout:.0f} s, which is no failure")
    failed = _FAILED.search(ran.stdout)
    return Outcome(failed[1] if failed else None, ran.stdout[-6000:] + ran.stderr[-1000:])


@contextmanager
def _edited(switch: Switch, copy: Path) -> Iterator[None]:
    before = {copy / edit.file: (copy / edit.file).read_text() for edit in switch.edits}
    try:
        for edit in switch.edits:
            file = copy / edit.file
            text = file.read_text()
            assert text.count(edit.was) == 1, f"{edit.file} has {text.count(edit.was)} times {edit.was!r}"
            file.write_text(text.replace(edit.was, edit.becomes))
        yield
    finally:
        for file, text in before.items():
            file.write_text(text)
