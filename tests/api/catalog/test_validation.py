"""Diagnostics: a mistake is reported with file, line, column, field and fix; all of them at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from api.catalog.entries import ENGINE, MODEL, PROFILE, a_catalog, an_engine, write
from api.node import read_shipped_once
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aima_api.catalog import loader
from aima_api.catalog.loader import find_mistakes
from aima_api.catalog.yaml_source import Mistake


@pytest.fixture(autouse=True)
def shipped_files_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_read_all", read_shipped_once)


def test_a_catalog_may_lie_in_a_directory_named_as_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "models" / "own").mkdir(parents=True)
    root = a_catalog(tmp_path / "models" / "own")

    assert find_mistakes(root) == []
    assert find_mistakes(root / "engines") == []


def test_a_valid_catalog_has_no_mistakes(tmp_path: Path) -> None:
    assert find_mistakes(a_catalog(tmp_path)) == []


@pytest.mark.parametrize(
    ("good", "bad", "reported"),
    [
        ("port: 8000", "prt: 8000", "10:1: prt: there is no such field; did you mean `port`?"),
        ("port: 8000", "port: 8000\nflavour: sweet", "11:1: flavour: there is no such field; there are: name, type"),
        ("port: 8000\n", "", "1:1: port: is missing; add it: a whole number from 1 to 65535"),
        ("  timeout: 30s", "  path: /up", "11:1: health_check.timeout: is missing; add it: text such as `30s`"),
        ("port: 8000", 'port: "8000"', "10:7: port: `8000` is text to YAML, not a whole number; write a whole number"),
        ("port: 8000", "port: 80000", "10:7: port: 80000 is too large; write 65535 or less"),
        ("port: 8000", "port: 0", "10:7: port: 0 is too small; write 1 or more"),
        ("port: 8000", "port: 8000.0", "10:7: port: `8000.0` is a number to YAML, not a whole number"),
        ("port: 8000", "port: true", "10:7: port: `true` is true or false to YAML, not a whole number"),
        ("port: 8000", "port: 0777", "10:7: port: `0777` is a number in a notation special to YAML"),
        ("port: 8000", "port:", "10:6: port: has no value; give it one, or remove it"),
        ("port: 8000", "port: 8000\nport: 9000", "11:1: port: is given twice, first on line 10; keep one of the two"),
        ("port: 8000", "port: [8000]", "10:1: port: is a list, not a whole number"),
        (
            "[parrot, --loud]",
            "[parrot, 1.0]",
            '4:19: command.1: `1.0` is a number to YAML, not text; put it in quotes: "1.0"',
        ),
        ("[parrot, --loud]", "parrot", "4:10: command: `parrot` is text to YAML, not a list; write `[parrot]`"),
        ("[parrot, --loud]", "python3 -m http.server 80", "; write `[python3, -m, http.server, '80']`"),
        ("[parrot, --loud]", "sh -c 'sleep 1; serve'", "; write `[sh, -c, sleep 1; serve]`"),
        ("[linux/arm64, linux/amd64]", "linux/arm64, linux/amd64", "not a list; write `[linux/arm64, linux/amd64]`"),
        ("[parrot, --loud]", "yes", "4:10: command: `yes` is true or false to YAML, not a list"),
        ("[parrot, --loud]", "[]", "4:1: command: is empty; write a list, each text, with at least one item"),
        ("[parrot, --loud]", r'["a\0b"]', "4:11: command.0: it holds a zero byte"),
        ("parrot:1.0", "Parrot:1.0", "3:8: image: 'example.org/Parrot:1.0' is not an image reference"),
        ("parrot:1.0", "parrot:1.0:2", "write it such as `repo/name:tag`"),
        (
            "  timeout: 30s",
            "  timeout: 30",
            "12:12: health_check.timeout: 30 is not a duration; write a number and its unit",
        ),
        ("  timeout: 30s", "  timeout: soon", "12:12: health_check.timeout: 'soon' is not a duration"),
        (
            "  timeout: 30s",
            "  timeout: 30s\n  at_most: 20s",
            "11:1: health_check: has an `at_most` below its `timeout`",
        ),
        ("  memory: 1GB", "  memory: 1", "15:11: requires.memory: 1 is not a size; write a number and its unit"),
        ("  memory: 1GB", "  memory: 1XB", "15:11: requires.memory: '1XB' is not a size"),
        (
            "linux/arm64",
            "linux/arm",
            "14:15: requires.platforms.0: `linux/arm` is unknown here; write one of `linux/arm64`",
        ),
        (
            "  memory: 1GB",
            "  memory: 1GB\n  gpus: 1",
            "13:1: requires: has one of `gpus` and `accelerator` without the other",
        ),
        ("  memory: 1GB", "  memory: 1GB\n  gpus: some", "16:9: requires.gpus: 'some' is not a number of GPUs"),
        ("  words: 20", "  --words: 20", "6:3: arguments.--words: '--words' cannot name an argument"),
        ("  words: 20", "  words: [20]", "6:3: arguments.words: it is neither text, a number, true nor false"),
        (
            "  words: 20",
            "  words: .inf",
            "6:10: arguments.words: `.inf` is a number in a notation special to YAML",
        ),
        (
            "port: 8000",
            "port: 8000\nenvironment:\n  LD_PRELOAD: x",
            "12:3: environment.LD_PRELOAD: 'LD_PRELOAD' may not be set",
        ),
        ("port: 8000", "port: 8000\nenvironment:\n  A: 1", "12:6: environment.A: `1` is a number to YAML, not text"),
        (
            "port: 8000",
            "port: 8000\nmodel_mount: models",
            "11:14: model_mount: `models` is malformed; write text such as `/models`",
        ),
        (
            "port: 8000",
            "port: 8000\nlimits: none",
            "11:9: limits: `none` is text to YAML, not a mapping; write the fields memory",
        ),
        (
            "port: 8000",
            "port: !!python/object:os.system 8000",
            "10:7: port: has the tag 'tag:yaml.org,2002:python/object:os.system'",
        ),
        (
            "name: parrot-cpu",
            "name: Parrot CPU",
            "1:7: name: 'Parrot CPU' is not a valid engine name; write one such as",
        ),
        ("name: parrot-cpu", "name: parrot-gpu", "1:7: name: is `parrot-gpu`, and the file is `parrot-cpu.yaml`"),
        ("type: parrot", "type: par-rot", "2:7: type: 'par-rot' is not a valid engine type; write one such as `vllm`"),
        (
            "type: parrot",
            "type: finch",
            "2:7: type: is `finch`, and the folder is `parrot`; move the file to `engines/finch`",
        ),
    ],
)
def test_a_mistake_in_an_engine_is_reported_with_its_line(tmp_path: Path, good: str, bad: str, reported: str) -> None:
    assert good in ENGINE
    file = an_engine(tmp_path, ENGINE.replace(good, bad))

    mistakes = "\n".join(map(str, find_mistakes(file)))

    assert reported in mistakes
    assert mistakes.startswith(f"{file}:")
    assert len(mistakes.splitlines()) == (2 if bad == "prt: 8000" else 1)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("", "1:1: is empty"),
        ("# nothing yet\n", "1:1: is empty"),
        ("parrot", "1:1: is not a mapping"),
        ("[parrot]", "1:1: is not a mapping"),
        ("name: a\n---\nname: b\n", "2:1: begins a second document"),
        ("name: a: b\n", "1:8: is not YAML: mapping values are not allowed"),
        (
            "name:\n\t- a\n",
            "2:1: is not YAML: while scanning for the next token, found character that cannot start any token; indent",
        ),
        ('name: "a\n', "2:1: is not YAML"),
        ("a: &a [x]\nb: *a\n", "1:4: uses a YAML anchor or alias; write the value out in full"),
        ("[" * 900_000, "1:18: is nested too deeply"),
        ("- " * 400_000, "1:35: is nested too deeply"),
        ("? " * 400_000, "1:3: has a key that is not plain text"),
        ("name: \a\n", r"1:7: contains the control character '\x07'"),
        ("a" * (2**20 + 1), "1:1: is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_not_an_entry_is_reported_in_one_sentence(tmp_path: Path, text: str, reported: str) -> None:
    file = an_engine(tmp_path, text)

    [mistake] = find_mistakes(file)

    assert str(mistake).startswith(f"{file}:{reported}")


def test_bytes_that_are_not_utf_8_are_reported_with_their_position(tmp_path: Path) -> None:
    file = an_engine(tmp_path)
    file.write_bytes(b"name: caf\xe9\n")

    [mistake] = find_mistakes(file)

    assert (mistake.line, mistake.column, mistake.problem) == (1, 10, "contains bytes that are not UTF-8")


def test_a_file_that_would_block_a_reader_is_refused_at_once(tmp_path: Path) -> None:
    file = an_engine(tmp_path)
    file.unlink()
    os.mkfifo(file)

    [mistake] = find_mistakes(file)

    assert mistake.problem == "is not a regular file"


def test_a_missing_path_is_reported(tmp_path: Path) -> None:
    [mistake] = find_mistakes(tmp_path / "nowhere.yaml")

    assert "No such file" in mistake.problem


def test_all_mistakes_of_all_files_are_reported_in_the_order_of_files_and_lines(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    an_engine(
        tmp_path, ENGINE.replace("port: 8000", "port: many").replace("30s", "30").replace("name: parrot-cpu", "name: X")
    )
    write(tmp_path / "profiles/perch.yaml", PROFILE.replace("cores: 4", "cores: few"))

    mistakes = find_mistakes(tmp_path)

    assert [(mistake.file.name, mistake.line, mistake.field) for mistake in mistakes] == [
        ("parrot-cpu.yaml", 1, "name"),
        ("parrot-cpu.yaml", 10, "port"),
        ("parrot-cpu.yaml", 12, "health_check.timeout"),
        ("perch.yaml", 4, "cores"),
    ]


def test_validating_one_file_reports_only_its_own_mistakes(tmp_path: Path) -> None:
    engine = an_engine(a_catalog(tmp_path), ENGINE.replace("port: 8000", "port: many"))

    assert find_mistakes(tmp_path / "models") == find_mistakes(tmp_path / "profiles/perch.yaml") == []
    assert [mistake.file for mistake in find_mistakes(tmp_path / "engines")] == [engine]


def test_the_mistakes_of_one_file_are_reported_up_to_a_limit(tmp_path: Path) -> None:
    file = an_engine(tmp_path, ENGINE + "".join(f"field{number}: x\n" for number in range(1000)))

    assert len(find_mistakes(file)) == 50


# Names and paths --------------------------------------------------------------------------------------------------


def test_a_model_whose_engine_does_not_exist_is_reported_with_the_closest_names(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    file = write(tmp_path / "models/tts/Polly-1.5.yaml", MODEL.replace("[parrot-cpu]", "[parrot-cpu, parot-cpu]"))

    reported = [str(mistake) for mistake in find_mistakes(tmp_path)]

    assert reported == [f"{file}:4:23: engines.1: there is no engine `parot-cpu`; did you mean `parrot-cpu`?"]


def test_an_engine_with_a_mistake_still_exists_for_entries_that_name_it(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    an_engine(tmp_path, ENGINE.replace("port: 8000", "port: many"))

    assert [mistake.file.name for mistake in find_mistakes(tmp_path)] == ["parrot-cpu.yaml"]


@pytest.mark.parametrize(
    ("good", "bad", "reported"),
    [
        ("engine: parrot-cpu", "engine: finch-cpu", "8:13: recommends.0.engine: there is no engine `finch-cpu`"),
        ("model: Polly-1.5", "model: Poly-1.5", "9:12: recommends.0.model: there is no model `Poly-1.5`; did you mean"),
        (
            "engine: parrot-cpu",
            "engine: qwen-tts-cpu",
            "8:13: recommends.0.engine: `qwen-tts-cpu` is not listed as an engine of",
        ),
        ("cores: 4", "cores: 0", "4:8: cores: 0 is too small"),
        ("memory: 8GB", "memory: 0.5GB", "8:13: recommends.0.engine: `parrot-cpu` requires more cores or memory"),
    ],
)
def test_a_profile_that_recommends_an_impossible_service_is_reported(
    tmp_path: Path, good: str, bad: str, reported: str
) -> None:
    a_catalog(tmp_path)
    file = write(tmp_path / "profiles/perch.yaml", PROFILE.replace(good, bad))

    [mistake] = find_mistakes(tmp_path)

    assert str(mistake).startswith(f"{file}:{reported}")


def test_a_profile_that_recommends_an_engine_for_another_architecture_or_accelerator_is_reported(
    tmp_path: Path,
) -> None:
    a_catalog(tmp_path)
    an_engine(tmp_path, ENGINE.replace("linux/arm64, linux/amd64", "linux/arm64"))

    [wrong_arch] = find_mistakes(tmp_path)
    an_engine(tmp_path, ENGINE + "  accelerator: gb10\n  gpus: all\n")
    [wrong_accelerator] = find_mistakes(tmp_path)

    assert (wrong_arch.line, wrong_arch.problem) == (8, "`parrot-cpu` does not run on amd64")
    assert wrong_accelerator.problem == "`parrot-cpu` requires a gb10"


def test_two_entries_of_one_name_are_reported(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    first = tmp_path / "engines/parrot/parrot-cpu.yaml"
    second = write(tmp_path / "engines/finch/parrot-cpu.yaml", ENGINE.replace("type: parrot", "type: finch"))

    [mistake] = find_mistakes(tmp_path)

    assert {mistake.file, Path(mistake.problem.split()[-1])} == {first, second}
    assert (mistake.line, mistake.field) == (1, "name")


def test_two_models_with_the_same_id_are_reported(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    write(tmp_path / "models/tts/POLLY-1.5.yaml", MODEL.replace("Polly", "POLLY"))

    [mistake] = find_mistakes(tmp_path)

    assert "is also the name of" in mistake.problem


@pytest.mark.parametrize("place", ["engines/parrot-cpu.yaml", "engines/a/b/parrot-cpu.yaml", "parrot-cpu.yaml"])
def test_an_entry_in_an_unread_folder_is_reported_with_the_right_one(tmp_path: Path, place: str) -> None:
    a_catalog(tmp_path)
    (tmp_path / "engines/parrot/parrot-cpu.yaml").unlink()
    write(tmp_path / place, ENGINE)

    [mistake] = find_mistakes(tmp_path)

    assert mistake.problem == "is outside of the catalog's layout"
    assert "`engines/<type>/<name>.yaml`" in mistake.right


def test_a_file_with_the_suffix_yml_is_reported_with_the_right_suffix(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    write(tmp_path / "engines/parrot/parrot-gpu.yml", ENGINE.replace("parrot-cpu", "parrot-gpu"))

    [mistake] = find_mistakes(tmp_path)

    assert mistake.right == "rename it to `parrot-gpu.yaml`"


def test_a_file_outside_a_catalog_is_recognized_by_its_fields(tmp_path: Path) -> None:
    engine = write(tmp_path / "parrot-cpu.yaml", ENGINE.replace("port: 8000\n", ""))
    model = write(tmp_path / "Polly-1.5.yaml", MODEL.replace("parrot-cpu", "qwen-tts-cpu"))

    assert [mistake.field for mistake in find_mistakes(engine)] == ["port"]
    assert find_mistakes(model) == []


def test_a_model_path_must_stay_below_the_model_roots(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    for bad in ("/etc", "../etc", "a/../../etc"):
        file = write(tmp_path / "models/tts/Polly-1.5.yaml", MODEL + f"path: {bad}\n")

        [mistake] = find_mistakes(file)

        assert (mistake.line, mistake.field) == (5, "path")
        assert "leads out of the model roots" in mistake.problem


def test_files_are_named_as_the_user_typed_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    an_engine(tmp_path, "parrot")
    monkeypatch.chdir(tmp_path)

    [mistake] = find_mistakes(Path("engines"))

    assert mistake.file == Path("engines/parrot/parrot-cpu.yaml")


# Arbitrary input --------------------------------------------------------------------------------------------------

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCRAPS = st.sampled_from(
    [
        *ENGINE.splitlines(True),
        *"[]{}:-?&*!|>'\"%@`#\t\n ",
        "<<: x\n",
        "~",
        "yes",
        "1:30",
        "\ufeff",
        "\x85",
        "\u2028",
        "é",
    ]
)


@given(st.binary(max_size=300) | st.lists(SCRAPS, max_size=30).map("".join).map(str.encode))
@FUZZ
def test_any_bytes_give_mistakes_or_an_entry_and_never_a_traceback(tmp_path: Path, content: bytes) -> None:
    file = an_engine(tmp_path)
    file.write_bytes(content)

    mistakes = find_mistakes(file)

    assert_each_can_be_read(mistakes)


@given(st.data())
@FUZZ
def test_any_scalar_as_any_value_gives_mistakes_or_an_entry_and_never_a_traceback(
    tmp_path: Path, data: st.DataObject
) -> None:
    line = data.draw(st.sampled_from([line for line in ENGINE.splitlines() if ": " in line]))
    value = data.draw(st.text(st.characters(codec="utf-8"), max_size=40))
    file = an_engine(tmp_path, ENGINE.replace(line, f"{line.split(':')[0]}: {value}"))

    mistakes = find_mistakes(file)

    assert_each_can_be_read(mistakes)


def assert_each_can_be_read(mistakes: list[Mistake]) -> None:
    for mistake in mistakes:
        assert mistake.line >= 1
        assert mistake.column >= 1
        assert mistake.right
        assert f"{mistake.field}{mistake.problem}{mistake.right}".isprintable()
