"""Resolves a model's directory on this host; never outside of the host's model roots.

Symbolic links are resolved before the roots are checked, so that none leads out of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aima_core.domain.operations import StartService
from aima_core.errors import EngineDoesNotServe, ModelPathMissing, ModelPathOutside
from aima_worker.context import HostContext


def model_directory(host: HostContext, command: StartService) -> str | None:
    """Returns the real path of the model's weights; None for an engine whose image contains its model.

    Raises ModelPathMissing, ModelPathOutside, EngineDoesNotServe.
    """
    engine = command.engine
    path = command.model_path or (command.model.path if command.model else None)
    if engine.model_mount is None:
        if command.model_path:
            remedy = "It brings its own model along: leave `--model-path` away, or choose another engine."
            raise EngineDoesNotServe(engine=engine.name, what=f"a model at {command.model_path}", remedy=remedy)
        return None
    if path is None:
        raise EngineDoesNotServe(
            engine=engine.name, what="a model without a path", remedy="Name it with `--model-path`."
        )
    return str(_resolve(host, path, host.settings.host.model_roots))


def _resolve(host: HostContext, path: str, roots: Sequence[Path]) -> Path:
    real_roots = [root.expanduser().resolve() for root in roots]
    candidates = [Path(path)] if Path(path).is_absolute() else [root / path for root in real_roots]
    inside = [real for candidate in candidates if _below(real := candidate.resolve(), real_roots)]
    if not inside and real_roots:
        raise ModelPathOutside(path=path, host=host.name, roots=_comma_list(real_roots))
    for real in inside:
        if real.exists():
            return real
    raise ModelPathMissing(
        path=path, host=host.name, looked=_comma_list(candidates) or "nowhere: `host.model_roots` is empty"
    )


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _comma_list(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
