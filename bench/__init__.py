"""Benchmarks against the alternative that a user would choose: `python -m bench`."""

import sys
from pathlib import Path

# What the tests' lab makes (a Redis, a registry, images) serves here too, and it lies on no path of its own.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
