"""What tells this host's worker from every other: its minted identity, and the place where it keeps it.

A machine that was copied has the other's identity, and another place; a worker that comes back has the same of both.
"""

from __future__ import annotations

from pathlib import Path

from aima_worker.node.facts import minted_identity

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def session_of(state_dir: Path) -> str:
    """The same for every worker that keeps its state here, on this machine, until it boots anew."""
    minted_identity(state_dir)
    place = _identity_file(state_dir).stat()
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
    return f"{boot}:{place.st_dev}:{place.st_ino}"


def _identity_file(state_dir: Path) -> Path:
    return state_dir / "identity"
