"""Documents in strict YAML: several in a file, mistakes with file, line, field and fix, and a JSON Schema."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from aima_api.cli.commands.documents import as_yaml
from aima_api.http.schemas import SPEC_FIELDS, ServiceOptions
from aima_api.specs.documents import KINDS, ServiceDocument, json_schema
from aima_api.specs.files import read_documents
from aima_core.errors import DocumentMistake

SERVICE = "kind: service\nid: svc-tiny-dial\n"
HOST = "kind: host\nname: spark-01\nlabels: {rack: '1'}\n"
WHOLE: dict[str, Any] = {
    "kind": "service",
    "id": "svc-tiny-dial",
    "engine": "dial-cpu",
    "model": "Dial",
    "model_path": "some/where",
    "route": "cpu.amd64",
    "replicas": 3,
    "port": 20005,
    "expose": True,
    "pull": "always",
    "arguments": {"flood": 3, "ratio": 0.5, "greedy": True, "last-words": "on"},
    "environment": {"MODE": "1.0", "EMPTY": ""},
    "secrets": {"HF_TOKEN": "huggingface"},
    "resources": {"memory": "1GB", "gpus": "all", "cores": 2},
    "limits": {"memory": "3GiB", "pids": 100, "cores": 1.5},
    "health": {"timeout": "5m", "at_most": "1h30m"},
    "priority": 7,
    "labels": {"team": "speech", "example.org/tier": ""},
    "desired": "stopped",
}
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
SCALARS = st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


def mistakes(text: str, tmp_path: Path) -> list[str]:
    """Without the file's name."""
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(DocumentMistake) as found:
        read_documents([str(file)])
    return str(found.value.facts["mistakes"]).replace(f"{file}:", "").splitlines()


def plain(*paths: Path) -> list[dict[str, Any]]:
    return [each.document.plain() for each in read_documents(map(str, paths))]


# Reading ------------------------------------------------------------------------------------------------------------


def test_a_file_has_several_documents_and_empty_ones_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(f"---\n# nothing\n---\n{SERVICE}---\n{HOST}---\n")

    placed = read_documents([str(tmp_path / "fleet.yaml")])

    assert [each.document.subject for each in placed] == ["svc-tiny-dial", "spark-01"]
    assert [each.at.rpartition(":")[2] for each in placed] == ["4", "7"]


def test_a_directory_is_read_with_all_below_it(tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    for name, text in {"b.yaml": SERVICE, "desk/a.yml": HOST, ".hidden.yaml": "?", "notes.txt": "?"}.items():
        (tmp_path / name).write_text(text)

    assert [each["kind"] for each in plain(tmp_path)] == ["service", "host"]


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SERVICE.encode())))

    [placed] = read_documents(["-"])

    assert (placed.document.subject, placed.at) == ("svc-tiny-dial", "(stdin):1")


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("id: svc-tiny-dial", "1:1: kind: is missing; add it: one of service, host"),
        ("kind: servce", "1:7: kind: `servce` is unknown here; did you mean `service`?"),
        (f"{SERVICE}prt: 8", "3:1: prt: there is no such field; did you mean `port`?"),
        (f"{SERVICE}port: '8'", "3:7: port: `8` is text to YAML, not a whole number"),
        (f"{SERVICE}port:", "3:6: port: has no value; give it one, or remove it"),
        (f"{SERVICE}hosts: [A]", "3:9: hosts.0: 'A' is not a valid host name; write one such as `spark-01`"),
        (f"{SERVICE}hosts: spark-01", "3:8: hosts: `spark-01` is text to YAML, not a list; write `[spark-01]`"),
        (f"{SERVICE}limits: {{memry: 1GB}}", "3:10: limits.memry: there is no such field; did you mean `memory`?"),
        (f"{SERVICE}resources: {{memory: 1}}", "3:21: resources.memory: 1 is not a size"),
        (f"{SERVICE}environment: {{LD_PRELOAD: x}}", "'LD_PRELOAD' may not be set"),
        (f"{SERVICE}desired: up", "3:10: desired: `up` is unknown here; write one of `running`, `stopped`"),
        (f"{SERVICE}hosts: [a]\nroute: cpu.amd64", "has `hosts` and a `route`; write one of them"),
        (f"{SERVICE}hosts: [a]\nreplicas: 2", "has `hosts` and another number of `replicas`; write one of them"),
        ("kind: service\nid: tiny-dial", "2:5: id: 'tiny-dial' is not a valid service id"),
        (f"{HOST}---\nkind: host\nname: spark-01\nlabels: {{rack: 1}}", "7:16: labels.rack: `1` is a number to YAML"),
        (f"{HOST}---\n{SERVICE}---\n{HOST}", "8:1: spark-01 has a document at"),
        ("", "1:1: has no document; write one, beginning with `kind: service`"),
        ("- a", "1:1: is not a mapping; write fields, such as `kind: service`"),
        (f"{SERVICE}port: [", "is not YAML"),
    ],
)
def test_a_mistake_is_reported_with_line_field_and_fix(text: str, reported: str, tmp_path: Path) -> None:
    [mistake] = mistakes(text, tmp_path)

    assert reported in mistake


def test_all_mistakes_of_all_files_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(f"{SERVICE}prt: 8\n---\n{HOST}nme: x\n")

    with pytest.raises(DocumentMistake) as found:
        read_documents([str(tmp_path / "none.yaml"), str(tmp_path / "one.yaml")])

    assert found.value.facts["count"] == 3
    assert "none.yaml:1:1: cannot be read (No such file or directory); name one that exists" in str(found.value)


# Attacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (f"{SERVICE}labels: &a {{x: y}}\n", "3:9: uses a YAML anchor or alias; write the value out in full"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "1:4: uses a YAML anchor or alias"),
        (f"{SERVICE}arguments: {'[' * 100_000}", "is nested too deeply"),
        (f"{SERVICE}model: !!python/object/apply:os.system [id]", "3:8: model: has the tag"),
        (f"{SERVICE}<<: {{port: 1}}", "there is no such field"),
        (f"{SERVICE}# {'x' * (1 << 20)}", "1:1: is larger than 1 MiB"),
        ("---\nkind: host\n" * 1001, "has more than 1000 documents; split the file"),
        (f"{SERVICE}model: '\x1b[2J'", "contains the control character '\\x1b'; remove it"),
    ],
)
def test_a_hostile_file_is_refused_with_its_place(text: str, reported: str, tmp_path: Path) -> None:
    found = mistakes(text, tmp_path)

    assert any(reported in each for each in found), found[:3]


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo.yaml")

    with pytest.raises(DocumentMistake, match="is not a regular file"):
        read_documents([str(tmp_path / "fifo.yaml")])


# The format -----------------------------------------------------------------------------------------------------------


def test_a_document_has_every_field_of_a_spec_and_takes_what_requests_take() -> None:
    spec = {name: value for name, value in WHOLE.items() if name in SPEC_FIELDS}

    assert set(ServiceDocument.model_fields) == SPEC_FIELDS | {"kind", "id", "desired"}
    assert set(spec) | {"hosts"} == SPEC_FIELDS
    requested = ServiceOptions.model_validate(spec).changes()
    assert ServiceDocument.model_validate(WHOLE).spec == {
        **requested,
        "resources": WHOLE["resources"],
        "limits": WHOLE["limits"],
    }


def test_a_whole_document_reads_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(as_yaml([WHOLE, {"kind": "host", "name": "a", "labels": {"x": "1"}}]))

    assert plain(tmp_path) == [WHOLE, {"kind": "host", "name": "a", "labels": {"x": "1"}}]


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True), SCALARS, min_size=1),
    environment=st.dictionaries(st.from_regex(r"X[A-Z0-9_]{0,9}", fullmatch=True), TEXTS, min_size=1),
)
def test_every_value_that_a_request_accepts_survives_export_and_reading(
    arguments: dict[str, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    document = {"kind": "service", "id": "svc-tiny-dial", "arguments": arguments, "environment": environment}
    (tmp_path / "one.yaml").write_text(as_yaml([document]))

    assert plain(tmp_path) == [document]


def test_the_json_schema_accepts_documents_and_marks_mistakes() -> None:
    schema = Draft202012Validator(json_schema())

    assert list(schema.iter_errors(WHOLE)) == []
    assert list(schema.iter_errors(yaml.safe_load(HOST))) == []
    for wrong in ({**WHOLE, "prt": 1}, {**WHOLE, "limits": {"memry": 1}}, {"kind": "other"}, {"kind": "service"}):
        assert list(schema.iter_errors(wrong))
    assert {
        each["properties"]["kind"]["const"] for each in json_schema()["$defs"].values() if "kind" in each["properties"]
    } == {*KINDS}
