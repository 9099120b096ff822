"""Resolves a model's directory beneath one of this host's model roots, right before its container is created.

No symbolic link is followed, so that a concurrent rename leads to a refusal and never out of a root. A component that
others than root and the worker can write is refused, unless its root is trusted. What the started container has mounted
is compared with the identity returned here.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aima_core.domain.operations import StartService
from aima_core.errors import EngineDoesNotServe, ModelPathMissing, ModelPathOutside, ModelPathUnsafe
from aima_core.settings import HostSettings, Settings
from aima_worker.context import HostContext
from aima_worker.directories import DirectoryIdentity, identity_of, opened, opened_beneath

MOST_ENTRIES = 20_000
"""Files and directories of a model that are searched for sockets and devices."""
_SPECIAL = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
}
_ALLOWED_INSIDE = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
"""A link inside the model is resolved in the container, within its own root."""
_ABSENT = {errno.ENOENT, errno.ENAMETOOLONG}


class ModelDirectory(NamedTuple):
    path: str
    """Absolute, without symbolic links."""
    identity: DirectoryIdentity

    def __str__(self) -> str:
        return self.path


class _ModelRoot(NamedTuple):
    configured: Path
    """As the settings name it, absolute."""
    real: Path
    trusted: bool

    @classmethod
    def of(cls, root: Path, *, trusted: bool = False) -> _ModelRoot:
        return cls(root, root.resolve(), trusted=trusted)


def model_directory(host: HostContext, command: StartService) -> ModelDirectory | None:
    """Returns the directory of the model's weights; None for an engine whose image contains its model.

    These are its verified files in the store, else what people put at its path. Raises ModelPathMissing,
    ModelPathOutside, ModelPathUnsafe, EngineDoesNotServe.
    """
    engine = command.engine
    path = command.model_path or (command.model.path if command.model else None)
    if engine.model_mount is None:
        if command.model_path:
            remedy = "It brings its own model along: leave `--model-path` away, or choose another engine."
            raise EngineDoesNotServe(engine=engine.name, what=f"a model at {command.model_path}", remedy=remedy)
        return None
    if command.fetches and (stored := host.models.find(command.fetches)):
        return _resolve(host.settings.host, [_ModelRoot.of(host.models.root)], stored)
    if path is None:
        raise EngineDoesNotServe(
            engine=engine.name, what="a model without a path", remedy="Name it with `--model-path`."
        )
    return resolve_model(host.settings.host, path)


def must_be_fetched(host: HostContext, command: StartService) -> bool:
    """Whether the start needs the files of a manifest that are neither in the store nor at the model's path."""
    if command.fetches is None or command.engine.model_mount is None or host.models.find(command.fetches):
        return False
    path = command.model.path if command.model else None
    try:
        return path is None or not resolve_model(host.settings.host, path)
    except (ModelPathMissing, ModelPathOutside):
        return True


def resolve_model(settings: HostSettings, path: str) -> ModelDirectory:
    """Raises ModelPathMissing, ModelPathOutside, ModelPathUnsafe."""
    return _resolve(settings, _roots(settings), path)


@contextmanager
def opened_model(settings: Settings, path: str) -> Iterator[int]:
    """A descriptor of a model's directory, for the worker to read: resolved as one for an engine, and nothing private.

    Raises ModelPathMissing, ModelPathOutside, ModelPathUnsafe.
    """
    found = resolve_model(settings.host, path)
    state = settings.state_dir.expanduser()
    for private in (state, settings.host.secrets or state / "secrets"):
        real = private.expanduser().resolve()
        if real.is_relative_to(found.path) or Path(found.path).is_relative_to(real):
            raise _unsafe(settings.host, Path(found.path), f"secrets or the state of the worker lie at {private}")
    with opened(found.path) as descriptor:
        if identity_of(descriptor) != found.identity:
            raise _unsafe(settings.host, Path(found.path), "it was replaced while it was opened")
        yield descriptor


def _resolve(settings: HostSettings, roots: list[_ModelRoot], path: str) -> ModelDirectory:
    inside = [(root, relative) for root in roots if (relative := _relative(root, path)) is not None]
    if roots and not inside:
        names = ", ".join(str(root.configured) for root in roots)
        raise ModelPathOutside(path=path, host=settings.name, roots=names)
    for root, relative in inside:
        try:
            with opened(root.real) as descriptor:
                return _checked(settings, root, descriptor, relative)
        except OSError as absent:
            if absent.errno not in _ABSENT:
                raise _unsafe(settings, root.real / relative, absent.strerror or repr(absent)) from absent
    looked = ", ".join(str(root.configured / relative) for root, relative in inside)
    raise ModelPathMissing(path=path, host=settings.name, looked=looked or "nowhere: `host.model_roots` is empty")


def _roots(settings: HostSettings) -> list[_ModelRoot]:
    trusted = {_absolute(root).resolve() for root in settings.trusted_model_roots}
    configured = [_absolute(root) for root in settings.model_roots]
    return [_ModelRoot.of(root, trusted=root.resolve() in trusted) for root in configured]


def _absolute(root: Path) -> Path:
    return Path(os.path.normpath(root.expanduser().absolute()))


def _relative(root: _ModelRoot, path: str) -> str | None:
    """The path from the root, `.` for the root itself; None if it lies outside. Links count where it is opened."""
    if "\0" in path:
        return None
    for base in (root.configured, root.real):
        candidate = Path(os.path.normpath(base / path))
        if candidate.is_relative_to(base):
            return str(candidate.relative_to(base))
    return None


def _checked(settings: HostSettings, root: _ModelRoot, descriptor: int, relative: str) -> ModelDirectory:
    _check_ancestors(settings, root)
    _check_writers(settings, root, root.real, os.fstat(descriptor))
    if relative == ".":
        raise _unsafe(settings, root.real, "it is a model root itself", remedy="Name a directory below it.")
    for prefix in _prefixes(relative):
        try:
            with opened_beneath(descriptor, prefix) as component:
                _check_writers(settings, root, root.real / prefix, os.fstat(component))
                if prefix == relative:
                    _check_entries(settings, root.real / relative, component)
                    return ModelDirectory(str(root.real / relative), identity_of(component))
        except OSError as refused:
            if refused.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _unsafe(settings, root.real / prefix, _kind(root.real / prefix)) from refused
            raise
    raise AssertionError("a path has a last component")


def _prefixes(relative: str) -> Iterator[str]:
    parts = relative.split("/")
    return ("/".join(parts[: length + 1]) for length in range(len(parts)))


def _kind(path: Path) -> str:
    try:
        kind = _SPECIAL.get(stat.S_IFMT(path.lstat().st_mode))
    except OSError:
        kind = None
    return f"it is {kind}" if kind else "it was replaced while it was opened"


def _check_ancestors(settings: HostSettings, root: _ModelRoot) -> None:
    """Of the root, by both of its names: who can write them can replace it."""
    for ancestor in dict.fromkeys([*root.real.parents, *root.configured.parents]):
        _check_writers(settings, root, ancestor, ancestor.stat(), ancestor_of_root=True)


def _check_writers(
    settings: HostSettings, root: _ModelRoot, path: Path, found: os.stat_result, *, ancestor_of_root: bool = False
) -> None:
    """A POSIX ACL that lets others write shows in the bits of the group. In a sticky directory, entries of root and the
    worker cannot be replaced."""
    if root.trusted:
        return
    foreign = found.st_uid not in {0, os.geteuid()}
    sticky = ancestor_of_root and found.st_mode & stat.S_ISVTX
    if not foreign and (sticky or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return
    detail = (
        f"others than root and the worker can write {path} "
        f"(owner {_user(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o})"
    )
    remedy = (
        f"Run `chown {_user(os.geteuid())} {path} && chmod go-w {path}` on {settings.name}, "
        f"or trust its writers: add {root.configured} to `host.trusted_model_roots`."
    )
    raise _unsafe(settings, path, detail, remedy=remedy)


def _check_entries(settings: HostSettings, directory: Path, descriptor: int) -> None:
    """A service behind a socket answers through a read-only mount, too."""
    seen = 0
    for where, names, files, within in os.fwalk(".", dir_fd=descriptor, follow_symlinks=False, onerror=_raise):
        seen += len(names) + len(files)
        if seen > MOST_ENTRIES:
            remedy = "Name the directory that holds the weights."
            raise _unsafe(settings, directory, f"it holds more than {MOST_ENTRIES} files", remedy=remedy)
        if (special := next(_special(files, within), None)) is not None:
            path = directory / where / special
            remedy = "Name a directory that holds the weights and nothing else."
            raise _unsafe(settings, path, _kind(path), remedy=remedy)


def _special(names: Iterable[str], within: int) -> Iterator[str]:
    for name in names:
        try:
            mode = os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue  # race: removed since it was listed
        if stat.S_IFMT(mode) not in _ALLOWED_INSIDE:
            yield name


def _raise(refused: OSError) -> None:
    if refused.errno != errno.ENOENT:
        raise refused


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _unsafe(
    settings: HostSettings, path: Path, detail: str, *, remedy: str = "Name a directory below a model root."
) -> ModelPathUnsafe:
    return ModelPathUnsafe(path=path, host=settings.name, detail=detail, remedy=remedy)
