"""The catalog loader: reads directories of YAML files, overlays them, and checks names used across files.

    engines/<type>/<name>.yaml    models/<type>/<name>.yaml    profiles/<name>.yaml

An entry of a later directory replaces the one of the same name as a whole. All mistakes are reported together, with
file, line, field and fix; with any mistake nothing is loaded. The schema of an entry is `aima_core.domain.catalog`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aima_api.catalog.diagnostics import entry_in, suggestion
from aima_api.catalog.selection import Catalog
from aima_api.catalog.yaml_source import Document, Mistake, read_yaml, yaml_files
from aima_core.domain.catalog import Engine, Entry, Model, Profile, repository_of
from aima_core.errors import CatalogMistake, ModelExists

E = TypeVar("E", bound=Entry)

_PACKAGED = Path(__file__).parent / "data"
SHIPPED = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "catalog"
"""The catalog shipped with AIMA: inside the installed package, or beside it in a checkout."""

BUILDS = SHIPPED.parent / "builds" if _PACKAGED.is_dir() else SHIPPED.parent / "deploy" / "engines"
"""The scripts that build the images and install the programs of the engines that bring their own."""

_KINDS: dict[str, type[Entry]] = {"engines": Engine, "models": Model, "profiles": Profile}
_DEPTHS = {"engines": 3, "models": 3, "profiles": 2}
_BUILT_HERE = "docker.io/aima/"
"""The repository of images that are built on the hosts, as a registry's client completes it."""
_LAYOUT = "put it at `engines/<type>/<name>.yaml`, `models/<type>/<name>.yaml` or `profiles/<name>.yaml`"


@dataclass(frozen=True)
class _File:
    """One YAML file: its entry, or the mistakes in its document."""

    document: Document
    kind: type[Entry]
    entry: Entry | None

    @property
    def name(self) -> str:
        """The name that other files use, also if this file is invalid; a model's is its id."""
        return _called(self.kind, _field(self.document, "name") or self.document.file.stem)

    def goes_by(self, name: str) -> bool:
        """Whether the name refers to this file; one named differently from its entry goes by both names."""
        return _called(self.kind, name) in (self.name, _called(self.kind, self.document.file.stem))


def load_catalog(*roots: Path) -> Catalog:
    """The shipped catalog, overlaid by each root in turn. Raises CatalogMistake with every mistake."""
    files: list[_File] = []
    in_force: list[_File] = []
    for root in dict.fromkeys(root.absolute() for root in (SHIPPED, *roots)):
        layer = _read_all(root)
        files, in_force = files + layer, _in_force(in_force + layer)
        for file in layer:
            _check_references(file, in_force)
    if mistakes := sorted(mistake for file in files for mistake in file.document.mistakes):
        raise CatalogMistake(count=len(mistakes), mistakes="\n".join(map(str, mistakes)))
    return Catalog(_entries(in_force, Engine), _entries(in_force, Model), _entries(in_force, Profile))


def is_catalog(root: Path) -> bool:
    """Whether it has any of the directories of a catalog."""
    return any((root / folder).is_dir() for folder in _KINDS)


def model_text(entry: Mapping[str, Any], comments: Iterable[str]) -> str:
    """A file of an entry with these fields, below the comments."""
    head = "".join(f"# {each}\n" for each in comments)
    return f"{head}\n{yaml.safe_dump(dict(entry), sort_keys=False, default_flow_style=None, width=1000)}"


def add_model(root: Path, model: Model, text: str) -> Path:
    """Adds the entry's file, atomically: it appears as a whole. Raises ModelExists, OSError."""
    file = root / "models" / model.type / f"{model.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text)
    try:
        os.link(temporary, file)  # which replaces nothing
    except FileExistsError as there:
        raise ModelExists(model=model.name, where=file) from there
    finally:
        temporary.unlink()
    return file


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema, for editors, of an `engine`, `model` or `profile`; unknown fields are mistakes."""
    schema = _KINDS[f"{kind}s"].model_json_schema()
    for each in (schema, *schema.get("$defs", {}).values()):
        each["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def find_mistakes(path: Path) -> list[Mistake]:
    """The mistakes in one file, or in all files below a directory, by file and line.

    Names of other files are resolved in the file's own catalog and in the shipped one.
    """
    given = path.absolute()
    root = _root_of(given)
    files = _read_all(root) if root else [_read(given, None)]
    in_force = _in_force([*(_read_all(SHIPPED) if root != SHIPPED else []), *files])
    for file in files:
        _check_references(file, in_force)
    found = sorted(mistake for file in files for mistake in file.document.mistakes)
    chosen = [mistake for mistake in found if mistake.file.is_relative_to(given)]
    return chosen if path.is_absolute() else [replace(each, file=Path(os.path.relpath(each.file))) for each in chosen]


def _root_of(path: Path) -> Path | None:
    """The catalog directory of the path, whatever the names above it are; None for a file outside of any."""
    if is_catalog(path):
        return path
    above = next((at.parent for at in [path, *path.parents][:3] if at.name in _KINDS), None)
    return above or (path if path.is_dir() else None)


def _read_all(root: Path) -> list[_File]:
    if not is_catalog(root):
        document = Document(root)
        document.report((1, 1), (), "is not a catalog", "name a directory with `engines`, `models` or `profiles`")
        return [_File(document, Entry, None)]
    files = [_read(file, root) for file in yaml_files(root)]
    _check_names_differ(files)
    return files


def _read(file: Path, root: Path | None) -> _File:
    document = read_yaml(file)
    parts = file.relative_to(root).parts if root else ()
    kind = _KINDS.get(parts[0]) if parts else _guess_kind(document)
    if kind is None or (parts and len(parts) != _DEPTHS[parts[0]]):
        document.report((1, 1), (), "is outside of the catalog's layout", _LAYOUT)
    elif file.suffix != ".yaml":
        document.report((1, 1), (), "has a name that does not end in `.yaml`", f"rename it to `{file.stem}.yaml`")
    kind = kind or _guess_kind(document)
    entry = entry_in(document, kind)
    _check_place(document, parts)
    if isinstance(entry, Engine):
        _check_built_here(document, entry)
    return _File(document, kind, entry)


def _check_built_here(document: Document, engine: Engine) -> None:
    """An engine that would ask a public registry for an image which is built on the hosts."""
    if engine.pull != "never" and any(repository_of(image).startswith(_BUILT_HERE) for image in engine.images):
        problem = "has an image below `aima/`, which is built on the hosts: in a public registry, it is somebody else's"
        document.report_at(("image",), problem, "add `pull: never`, or name the image with your registry")


def _guess_kind(document: Document) -> type[Entry]:
    fields = document.value or {}
    return max(_KINDS.values(), key=lambda kind: len(kind.model_fields.keys() & fields.keys()))


def _check_place(document: Document, parts: Sequence[str]) -> None:
    name, kind = _field(document, "name"), _field(document, "type")
    if name is not None and name != document.file.stem:
        problem = f"is `{name}`, and the file is `{document.file.name}`"
        document.report_at(("name",), problem, f"name the file `{name}.yaml`, or the entry `{document.file.stem}`")
    if len(parts) == 3 and kind is not None and kind != parts[1]:
        fix = f"move the file to `{parts[0]}/{kind}`, or write `{parts[1]}`"
        document.report_at(("type",), f"is `{kind}`, and the folder is `{parts[1]}`", fix)


def _field(document: Document, name: str) -> str | None:
    """A text field at the top of the file."""
    value = (document.value or {}).get(name)
    return value if isinstance(value, str) else None


def _called(kind: type[Entry], name: str) -> str:
    return name.lower() if kind is Model else name


def _check_names_differ(files: list[_File]) -> None:
    first: dict[tuple[type[Entry], str], _File] = {}
    for file in files:
        other = first.setdefault((file.kind, file.name), file)
        if other is not file:
            problem = f"`{file.name}` is also the name of {other.document.file}"
            file.document.report_at(("name",), problem, "rename one of the two")


def _in_force(files: Iterable[_File]) -> list[_File]:
    return list({(file.kind, file.name): file for file in files}.values())


def _entries(files: Iterable[_File], kind: type[E]) -> tuple[E, ...]:
    return tuple(file.entry for file in sorted(files, key=lambda file: file.name) if isinstance(file.entry, kind))


def _check_references(file: _File, others: list[_File]) -> None:
    if isinstance(file.entry, Model):
        for index, engine in enumerate(file.entry.engines):
            _find(file, ("engines", index), Engine, engine, others)
    if isinstance(file.entry, Profile):
        for index in range(len(file.entry.recommends)):
            _check_recommendation(file, file.entry, index, others)


def _check_recommendation(file: _File, profile: Profile, index: int, others: list[_File]) -> None:
    at, recommended = ("recommends", index), profile.recommends[index]
    engine = _find(file, (*at, "engine"), Engine, recommended.engine, others)
    model = _find(file, (*at, "model"), Model, recommended.model, others)
    if isinstance(engine, Engine) and (lack := _lack(profile, engine)):
        file.document.report_at((*at, "engine"), f"`{engine.name}` {lack}", "recommend one that can run there")
    if isinstance(model, Model) and isinstance(engine, Engine) and engine.name not in model.engines:
        problem = f"`{engine.name}` is not listed as an engine of `{model.name}`"
        file.document.report_at((*at, "engine"), problem, f"recommend one of {', '.join(model.engines)}")


def _find(file: _File, at: tuple[str | int, ...], kind: type[Entry], name: str, others: list[_File]) -> Entry | None:
    """The entry of that name; None if it is invalid, or missing, which is reported."""
    for other in others:
        if other.kind is kind and other.goes_by(name):
            return other.entry
    known = sorted(other.name for other in others if other.kind is kind)
    file.document.report_at(at, f"there is no {kind.__name__.lower()} `{name}`", suggestion(name, known))
    return None


def _lack(profile: Profile, engine: Engine) -> str | None:
    """Why the engine cannot run on the profile's machine; None if it can."""
    required = engine.requires
    if f"linux/{profile.arch}" not in required.platforms:
        return f"does not run on {profile.arch}"
    if required.accelerator not in ("cpu", profile.accelerator):
        return f"requires a {required.accelerator}"
    if required.cores > profile.cores or required.memory > profile.memory:
        return "requires more cores or memory than the machine has"
    return None
