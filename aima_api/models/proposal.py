"""A catalog entry for a repository of a model, drafted from its files for the engines that can read them.

Nothing is guessed: where several sets of weights would do, the draft is refused with all of them, and a person chooses.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from aima_api.models import directory, hub, modelscope
from aima_api.models.hub import Repository
from aima_core.domain.catalog import Engine, Model
from aima_core.domain.models import Origin, Source, chosen
from aima_core.domain.units import counted, format_size
from aima_core.errors import AmbiguousFiles, EngineDoesNotServe, InvalidRequest, SourceUnusable, UnknownEngine

TOKEN = "huggingface"
"""The entry of the hosts' secrets that drafts of gated repositories name."""
QUANTISATION = "q4_k_m"
"""Of several in a repository, the one that is taken: four bits, the usual compromise of size and quality."""
_GGUF, _TENSORS = ".gguf", (".safetensors", ".bin")
_BESIDE = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Of files that engines read beside tensors: configuration, tokenizer and chat template."""
_SHARD = re.compile(r"[-.]?\d{5}-of-\d{5}")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,60}")
_TYPES = {
    "text-generation": "llm",
    "image-text-to-text": "vision",
    "feature-extraction": "embedding",
    "sentence-similarity": "embedding",
    "text-ranking": "rerank",
    "automatic-speech-recognition": "asr",
    "text-to-speech": "tts",
    "text-to-image": "image",
}
"""Of models, by the task that the publisher names."""
_TYPES_OF_ENGINES = {"embeddings": "embedding", "asr": "asr", "tts": "tts"}
_ENGINES_FOR: Mapping[str, tuple[str, ...]] = {
    "llm": ("vllm",),
    "vision": ("vllm",),
    "embedding": ("embeddings", "vllm"),
    "rerank": ("vllm",),
}
"""Types of engines that read tensors; for others, a person names one."""
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")

_REMEDY = (
    "Name a repository, such as `hf:Qwen/Qwen3-32B`, or a directory and its host: `file:/srv/models/mine --host H`."
)
WeightSets = dict[str, list[str]]
"""Paths of the parts of each set of weights, by the path without their numbers."""


class Draft(NamedTuple):
    model: Model
    entry: dict[str, Any]
    """The fields of its file, as they are to be written."""
    notes: tuple[str, ...]
    """What a person should know, in sentences."""


def draft(
    text: str,
    engines: Sequence[Engine],
    *,
    engine: str | None = None,
    name: str | None = None,
    files: Sequence[str] = (),
) -> Draft:
    """The entry of a repository or a directory, for the `engine` of that name or type, else for those that can read it.

    Raises InvalidRequest, UnknownEngine, EngineDoesNotServe, AmbiguousFiles, and what a resolution raises.
    """
    try:
        source = Source.parse(text)
    except ValueError as wrong:
        raise InvalidRequest(detail=f"{wrong}.", remedy=_REMEDY) from wrong
    if source.origin is Origin.HTTPS:
        raise InvalidRequest(
            detail="A URL names one file, and no repository to look at.",
            remedy="Write its entry by hand: `catalog/models/llm/GLM-4.7-Flash.yaml` explains every field.",
        )
    label = name or source.where.rpartition("/")[2]
    look = {Origin.HF: hub.look, Origin.MODELSCOPE: modelscope.look, Origin.FILE: directory.look}[source.origin]
    found = look(source, model=label)
    return _draft(source, found, label, _readers(engines, found, engine), tuple(files))


def _draft(source: Source, found: Repository, name: str, readers: list[Engine], files: tuple[str, ...]) -> Draft:
    where = f"{source.origin}:{source.where}@{source.revision}"
    patterns = files or _patterns(found.files, gguf=readers[0].type == "llamacpp", where=where)
    paths = [path for path in found.files if chosen(path, patterns)]
    if not paths:
        raise SourceUnusable(source=where, detail="it has none of the files", remedy="Correct the patterns.")
    kind = _type_of(found, readers[0])
    entry: dict[str, Any] = {"name": name, "type": kind, "size": f"{sum(map(found.files.__getitem__, paths))}B"}
    entry["source"] = where
    if source.origin is Origin.FILE:
        entry["contents"] = {path: each.model_dump() for path, each in directory.contents_of(source, paths).items()}
    else:
        entry["files"] = list(patterns)
    if found.licence and _LICENCE.fullmatch(found.licence):
        entry["licence"] = found.licence
    if found.gated:
        entry["token"] = TOKEN
    context = _context(found.config)
    if arguments := _arguments(kind, readers[0], context):
        entry["arguments"] = arguments
    entry["engines"] = [str(each.name) for each in readers]
    try:
        model = Model.model_validate(entry)
    except ValidationError as wrong:
        detail = wrong.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")
        remedy = "Choose its files by `--files`, or its name by `--name`."
        raise SourceUnusable(source=where, detail=detail, remedy=remedy) from wrong
    notes = _notes(source, found, context, len(paths), model)
    says = f"as its files on {source.host} are" if source.host else "as its repository says"
    return Draft(model, entry, (f"{source.where}, {says}.", *notes))


def _readers(engines: Sequence[Engine], found: Repository, wanted: str | None) -> list[Engine]:
    """Best first. Raises UnknownEngine, EngineDoesNotServe, InvalidRequest."""
    if wanted is not None:
        named = [each for each in engines if wanted in (each.name, each.type)]
        if not named:
            raise UnknownEngine(engine=wanted, nearest=", ".join(sorted({each.type for each in engines})))
        if not (readers := [each for each in named if each.model_mount]):
            remedy = "Name an engine that mounts a model: `aima engine list` shows all."
            raise EngineDoesNotServe(engine=wanted, what="other models: its image holds its own", remedy=remedy)
        return readers
    has_tensors = any(path.endswith(_TENSORS) for path in found.files)
    types = _ENGINES_FOR.get(_TYPES.get(found.task or "", "llm"), ()) if has_tensors else ("llamacpp",)
    # One that runs code which lies beside the weights must be named.
    able = [each for each in engines if each.model_mount and not each.arguments.get("trust-remote-code")]
    if not (readers := [each for kind in types for each in able if each.type == kind]):
        raise InvalidRequest(
            detail=f"No engine of the catalog is known to serve a model for {found.task}.",
            remedy="Name one with `--engine`: `aima engine list` shows all.",
        )
    return readers


def _patterns(files: Mapping[str, int], *, gguf: bool, where: str) -> tuple[str, ...]:
    """Of one set of weights, and of what engines read beside it. Raises AmbiguousFiles, SourceUnusable."""
    if gguf:
        paths = [path for path in files if path.endswith(_GGUF) and "imatrix" not in path.lower()]
        projectors = [path for path in paths if "mmproj" in path.lower()]
        weights = _the_set(_sets(set(paths) - set(projectors)), files, where, preferred=QUANTISATION)
        return (*_pattern_of(weights, files), *_projector(projectors, files))
    top = [path for path in files if "/" not in path]
    for suffix in _TENSORS:
        if tensors := _sets(path for path in top if path.endswith(suffix)):
            usual = "pytorch_model.bin" if suffix == ".bin" else "model.safetensors"
            weights = [*tensors[usual]] if usual in tensors else _the_set(tensors, files, where)
            beside = [f"*{end}" for end in _BESIDE if any(path.endswith(end) for path in files)]
            return (*_pattern_of(weights, files), *beside)
    raise SourceUnusable(
        source=where,
        detail="it has no weights as safetensors",
        remedy="Choose its files by `--files`, or an engine that reads GGUF by `--engine llamacpp`.",
    )


def _sets(paths: Iterable[str]) -> WeightSets:
    sets: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        sets[_SHARD.sub("", path)].append(path)
    return dict(sets)


def _the_set(sets: WeightSets, files: Mapping[str, int], where: str, *, preferred: str | None = None) -> list[str]:
    """The only one, or the only one of the preferred kind. Raises AmbiguousFiles, SourceUnusable."""
    if not sets:
        raise SourceUnusable(
            source=where,
            detail="it has no weights that the engine reads",
            remedy="Choose another engine by `--engine`.",
        )
    likely = [each for each in sets if preferred and preferred in each.lower()]
    if len(sets) == 1 or len(likely) == 1:
        return sets[next(iter(likely or sets))]
    candidates = [
        f"{' '.join(_pattern_of(paths, files))} ({format_size(sum(map(files.__getitem__, paths)))})"
        for paths in sets.values()
    ]
    raise AmbiguousFiles(source=where, number=len(sets), candidates="\n".join(candidates))


def _pattern_of(paths: Sequence[str], files: Collection[str]) -> tuple[str, ...]:
    """Which matches these paths and no other."""
    pattern = _SHARD.sub(lambda number: f"{number[0][:1] if not number[0][0].isdigit() else ''}*", paths[0])
    exact = [path for path in files if chosen(path, (pattern,))]
    return (pattern,) if sorted(exact) == sorted(paths) else tuple(paths)


def _projector(paths: Sequence[str], files: Mapping[str, int]) -> tuple[str, ...]:
    """Of a vision model: that in 16 bits, else the smallest."""
    if not paths:
        return ()
    return (min(paths, key=lambda path: ("-f16" not in path.lower(), files[path])),)


def _type_of(found: Repository, engine: Engine) -> str:
    return _TYPES.get(found.task or "") or _TYPES_OF_ENGINES.get(engine.type, "llm")


def _context(config: bytes | None) -> int | None:
    """In tokens; None if the repository does not say."""
    try:
        parsed = json.loads(config or b"{}")
        places = [parsed, parsed.get("text_config") or {}]
        values = [place.get(name) for place in places for name in _CONTEXT]
    except (ValueError, AttributeError, RecursionError):
        return None
    return next((value for value in values if type(value) is int and 0 < value < 1 << 40), None)


def _arguments(kind: str, engine: Engine, context: int | None) -> dict[str, Any]:
    """A model with a shorter context than the engine's default could not be started."""
    arguments: dict[str, Any] = {}
    default = engine.arguments.get("max-model-len")
    if context is not None and type(default) is int and context < default:
        arguments["max-model-len"] = context
    if kind == "embedding" and "embeddings" in engine.arguments:
        arguments["embeddings"] = True
    return arguments


def _notes(source: Source, found: Repository, context: int | None, files: int, model: Model) -> tuple[str, ...]:
    revision = "" if source.host else f", at commit {found.revision[:12]}"
    notes = [f"{counted(files, 'file')}, {format_size(model.size)}{revision}."]
    if context:
        notes.append(f"Its context is {context} tokens.")
    if found.gated:
        notes.append(
            f"It is gated: accept its terms at {source.endpoint}/{source.where}, and put a token into the secret "
            f"{TOKEN} of the hosts."
        )
    if b'"auto_map"' in (found.config or b""):
        notes.append(
            "It brings code of its own: an engine that needs it runs with `--set trust-remote-code=true` only."
        )
    return tuple(notes)
