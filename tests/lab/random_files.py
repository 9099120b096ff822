"""Files of a model whose content is random, and made when it is first read: not while tests are collected."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

KEPT = 12


class Random(NamedTuple):
    """Bytes of this size; equal for equal seeds."""

    size: int
    seed: int


@lru_cache(maxsize=KEPT)
def random_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


class RandomFiles(Mapping[str, bytes]):
    def __init__(self, files: Mapping[str, bytes | Random]) -> None:
        self._files = dict(files)

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(each.size if isinstance(each, Random) else len(each) for each in self._files.values())

    def __getitem__(self, path: str) -> bytes:
        found = self._files[path]
        return random_bytes(*found) if isinstance(found, Random) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
