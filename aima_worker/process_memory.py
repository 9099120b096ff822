"""Keeps the worker small: what belongs to the host's engines is not taken by what looks after them."""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8


def share_arenas() -> None:
    """Have all threads allocate from two arenas; by default each has its own, and keeps what it once had."""
    _glibc("mallopt", _M_ARENA_MAX, 2)


def settle() -> None:
    """Keep what is there now out of the collector's way, and give back what starting up has left over."""
    gc.collect()
    gc.freeze()  # looking through it again and again would cost starts milliseconds
    _glibc("malloc_trim", 0)


def _glibc(name: str, *args: int) -> None:
    """Nothing with another C library."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*args)
