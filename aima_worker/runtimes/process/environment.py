"""What a native engine sees of this machine: which program its command names, and which variables it gets.

Few of the worker's own variables are handed on: among the others are keys and addresses that no engine needs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from aima_worker.runtime import ContainerSpec
from aima_worker.runtimes.process.process_table import MARK

_HANDED_ON = ("HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_LAST_RESORT = "/usr/local/bin:/usr/bin:/bin"


def located(program: str) -> str | None:
    """The program's full path; ~/.local/bin is searched although services often have it not on their PATH."""
    return shutil.which(program, path=_path())


def environment(spec: ContainerSpec, *, mark: str) -> dict[str, str]:
    own = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    # Python keeps its lines back when they go into a pipe; other programs do not care.
    return {**own, "PYTHONUNBUFFERED": "1", **_gpus(spec), **spec.environment, "PATH": _path(), MARK: mark}


def _path() -> str:
    return f"{os.environ.get('PATH') or _LAST_RESORT}:{Path.home() / '.local' / 'bin'}"


def _gpus(spec: ContainerSpec) -> dict[str, str]:
    match spec.gpus:
        case "all":
            return {}
        case None:
            return {"CUDA_VISIBLE_DEVICES": ""}
        case int() as count:
            return {"CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(count))}
        case ids:
            return {"CUDA_VISIBLE_DEVICES": ",".join(ids)}
