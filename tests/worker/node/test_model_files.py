"""The directories with files below a host's model roots, as its worker lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aima_worker.node import model_files
from aima_worker.node.model_files import ModelFiles


def write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("weights")


def listed(*roots: Path) -> tuple[str, ...] | None:
    files = ModelFiles(roots, changed=lambda: None)
    files.scan()
    return files.directories


def test_directories_with_files_are_listed_relative_to_their_root(tmp_path):
    write(tmp_path / "one/Qwen3-32B/config.json")
    write(tmp_path / "other/meta/Llama/model.gguf")
    (tmp_path / "one/empty").mkdir()

    assert listed(tmp_path / "one", tmp_path / "other") == ("Qwen3-32B", "meta/Llama")


def test_neither_hidden_nor_linked_nor_deep_directories_are_listed(tmp_path):
    root = tmp_path / "root"
    for path in (".cache/a", "here/a", "a/b/c/d/e"):
        write(root / path)
    write(tmp_path / "outside/a")
    (root / "link").symlink_to(tmp_path / "outside")
    write(root / "in_the_root_itself")

    assert listed(root) == ("here",)


def test_a_root_that_is_missing_hides_no_other(tmp_path):
    write(tmp_path / "Qwen3-32B/config.json")

    assert listed(tmp_path / "nowhere", tmp_path) == ("Qwen3-32B",)


def test_only_so_many_are_announced(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_files, "MAX_DIRECTORIES", 2)
    for name in "abc":
        write(tmp_path / name / "config.json")

    assert listed(tmp_path) == ("a", "b")


def test_the_host_announces_a_change_only(tmp_path):
    changes = list[str]()
    files = ModelFiles([tmp_path], changed=lambda: changes.append("changed"))
    assert files.directories is None

    for _ in range(2):
        files.scan()
    write(tmp_path / "Qwen3-32B/config.json")
    for _ in range(2):
        files.scan()

    assert changes == ["changed", "changed"]
