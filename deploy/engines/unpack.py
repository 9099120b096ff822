"""Puts an engine's program and wheels where they will run: in an image's layers, or below a person's ~/.local.

Wheels are unpacked, never installed: no build, no dependency that is not listed, and for the Python that will run
them, which need not be the one that runs this.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GLIBC = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
"""The wheels' platforms that run on every base that engines are given."""


class CannotBuild(Exception):
    """Something is missing; the text says what, and what would help."""


SHARED = "openai_audio"
"""A module that several programs import, put beside them."""


@dataclass(frozen=True)
class Python:
    """An interpreter that will run an engine."""

    executable: str
    version: str
    """Such as `3.11`."""
    machine: str
    """`x86_64` or `aarch64`."""

    @classmethod
    def native(cls) -> "Python":
        # A virtual environment's own would go away with it.
        executable = getattr(sys, "_base_executable", None) or sys.executable
        return cls(executable, f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())


def engines() -> list[str]:
    return sorted(path.parent.name for path in HERE.glob("*/serve"))


def put_program(engine: str, prefix: Path, *, home: str, links: str, python: Python | None) -> Path:
    """The engine's program below `prefix` at `<home>/serve`, and a link to it, `<links>/aima-<engine>`, returned."""
    program, link = prefix / home / "serve", prefix / links / f"aima-{engine}"
    for path in (program, link):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    source = (HERE / engine / "serve").read_text()
    program.write_text(_for(python, source))
    program.chmod(0o755)
    if f"from {SHARED} import" in source:
        shutil.copy(HERE / f"{SHARED}.py", program.parent)
    link.symlink_to(os.path.relpath(program, link.parent))
    return link


def put_wheels(requirements: Path, target: Path, *, python: Python) -> None:
    """Every wheel that `requirements` lists, unpacked in `target`."""
    target.mkdir(parents=True, exist_ok=True)
    if not requirements.exists():
        return
    common = ["--target", str(target), "--requirement", str(requirements), "--no-deps", "--upgrade"]
    run([*_installer(python), *common, "--only-binary", ":all:", "--python-version", python.version])


def run(command: list[str], **options: object) -> str:
    """What the command says. Raises CannotBuild with its last lines when it fails."""
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    except FileNotFoundError as absent:
        raise CannotBuild(f"there is no program `{command[0]}`") from absent
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise CannotBuild(f"`{' '.join(command[:4])} …` failed with exit code {done.returncode}:\n{last}")
    return done.stdout.strip()


def _for(python: Python | None, program: str) -> str:
    """The program with its first line naming the interpreter; as it is where it needs none."""
    if python is None:
        return program
    _, _, rest = program.partition("\n")
    return f"#!{python.executable}\n{rest}"


def _installer(python: Python) -> list[str]:
    """Whichever of pip and uv is here; pip first, since it alone heeds pip's configuration."""
    platforms = [word for tag in GLIBC for word in ("--platform", f"{tag}_{python.machine}")]
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip3") or ""]
    if pip[0]:
        return [*pip, "install", "--quiet", "--no-compile", "--implementation", "cp", *platforms]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python-platform", f"{python.machine}-{GLIBC[0]}"]
    raise CannotBuild("there is neither pip nor uv to fetch wheels with (`apt-get install python3-pip`)")
