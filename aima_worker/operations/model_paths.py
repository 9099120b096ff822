"""Resolves a model's directory on this host; never outside of the host's model roots.

Symbolic links are resolved before the roots are checked, so that none leads out of them.
"""

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
    return str(_resolve(host, path))


def _resolve(host: HostContext, path: str) -> Path:
    roots = [root.expanduser().resolve() for root in host.settings.host.model_roots]
    candidates = [root / path for root in roots] if not Path(path).is_absolute() else [Path(path)]
    inside = [real for real in map(Path.resolve, candidates) if any(map(real.is_relative_to, roots))]
    if not inside and roots:
        raise ModelPathOutside(path=path, host=host.name, roots=", ".join(map(str, roots)))
    for real in inside:
        if real.exists():
            return real
    looked = ", ".join(map(str, candidates)) or "nowhere: `host.model_roots` is empty"
    raise ModelPathMissing(path=path, host=host.name, looked=looked)
