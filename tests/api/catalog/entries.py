"""Small valid entries, and a catalog to write them into."""

from __future__ import annotations

from pathlib import Path

ENGINE = """\
name: parrot-cpu
type: parrot
image: example.org/parrot:1.0
command: [parrot, --loud]
arguments:
  words: 20
  volume: 0.5
  voice: grey
  repeat: true
port: 8000
health_check:
  timeout: 30s
requires:
  platforms: [linux/arm64, linux/amd64]
  memory: 1GB
"""
MODEL = """\
name: Polly-1.5
type: tts
size: 1GB
engines: [parrot-cpu]
"""
PROFILE = """\
name: perch
arch: amd64
accelerator: cpu
cores: 4
memory: 8GB
unified_memory: false
recommends:
  - engine: parrot-cpu
    model: Polly-1.5
"""


def a_catalog(root: Path) -> Path:
    """A catalog of one engine, one model and one profile."""
    an_engine(root)
    write(root / "models/tts/Polly-1.5.yaml", MODEL)
    write(root / "profiles/perch.yaml", PROFILE)
    return root


def an_engine(root: Path, text: str = ENGINE) -> Path:
    return write(root / "engines/parrot/parrot-cpu.yaml", text)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file
