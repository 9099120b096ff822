"""Where a model's weights are on this host, and nowhere outside of its model roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aima_core.domain.operations import StartService
from aima_core.errors import EngineDoesNotServe, ModelPathMissing, ModelPathOutside
from aima_worker.context import HostContext


def model_directory(host: HostContext, command: StartService) -> str | None:
    """The real path of the model's weights; None for an engine that brings its model along.

    Links are followed before the roots are checked, so that none leads out of them.
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
    return str(_resolved(host, path, host.settings.host.model_roots))


def _resolved(host: HostContext, path: str, roots: Sequence[Path]) -> Path:
    real_roots = [root.expanduser().resolve() for root in roots]
    looked_in = [Path(path)] if Path(path).is_absolute() else [root / path for root in real_roots]
    inside = [real for place in looked_in if _below(real := place.resolve(), real_roots)]
    if not inside and real_roots:
        raise ModelPathOutside(path=path, host=host.name, roots=_named(real_roots))
    for real in inside:
        if real.exists():
            return real
    raise ModelPathMissing(
        path=path, host=host.name, looked=_named(looked_in) or "nowhere: `host.model_roots` is empty"
    )


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
