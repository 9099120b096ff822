"""Contexts: a file of the user's with URLs, CA and key of the API nodes; a key goes to its own context's URLs only."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import StandIn

from aima_core.errors import BadSettings, InvalidRequest

HOSTS = {"items": [], "next": None}


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aima: Aima) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("AIMA_KEY", raising=False)
    monkeypatch.delenv("AIMA_URL")
    return tmp_path / "aima" / "contexts.json"


def create(aima: Aima, monkeypatch: pytest.MonkeyPatch, name: str, url: str, *, key: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
    assert aima("context", "set", name, "--url", url, "--key-stdin").code == 0


def test_the_first_context_is_current_and_its_key_is_sent_and_never_printed(
    file: Path, script: StandIn, aima: Aima, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answer("GET /v1/hosts", HOSTS)

    create(aima, monkeypatch, "prod", script.url, key="a secret of prod")
    outcome = aima("host", "list")
    shown = [aima("context", "list"), aima("context", "show", "prod", "-o", "json")]

    assert outcome.code == 0
    assert script.asked("GET /v1/hosts")[0].headers["Authorization"] == "Bearer a secret of prod"
    assert shown[0].out.splitlines()[1].split() == ["prod", "yes", script.url, "-", "stored"]
    assert json.loads(shown[1].out)["key"] == "stored"
    assert "a secret of prod" not in shown[0].out + shown[1].out
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)


@pytest.mark.parametrize("by_option", [True, False])
def test_the_key_of_a_context_is_not_sent_to_another_url(
    by_option: bool, script: StandIn, aima: Aima, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answer("GET /v1/hosts", HOSTS)
    create(aima, monkeypatch, "prod", "http://127.0.0.1:9", key="a secret of prod")

    if not by_option:
        monkeypatch.setenv("AIMA_URL", script.url)
    outcome = aima("host", "list", *(["--url", script.url] if by_option else []))

    assert outcome.code == 0
    assert "Authorization" not in script.asked("GET /v1/hosts")[0].headers


def test_a_key_file_is_read_by_each_command_and_the_key_of_the_environment_replaces_it(
    file: Path, script: StandIn, aima: Aima, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answer("GET /v1/hosts", HOSTS)
    key = tmp_path / "key"
    key.write_text("first\n")
    aima("context", "set", "prod", "--url", script.url, "--key-file", str(key))

    aima("host", "list")
    key.write_text("second\n")
    aima("host", "list")
    monkeypatch.setenv("AIMA_KEY", "third")
    aima("host", "list")

    sent = [request.headers["Authorization"] for request in script.asked("GET /v1/hosts")]
    assert sent == ["Bearer first", "Bearer second", "Bearer third"]
    assert "first" not in file.read_text()
    assert str(key) in aima("context", "show", "prod").out


def test_contexts_are_switched_changed_and_removed(file: Path, aima: Aima) -> None:
    aima("context", "set", "one", "--url", "http://one")
    aima("context", "set", "two", "--url", "http://two,http://three")

    used = aima("context", "use", "two")
    changed = aima("context", "set", "one", "--url", "http://four")
    removed = aima("context", "remove", "two")

    assert [each.out for each in (used, changed, removed)] == [
        "Context two is current.\n",
        "Context one changed.\n",
        "Context two removed.\n",
    ]
    assert json.loads(file.read_text()) == {"current": None, "contexts": {"one": {"urls": ["http://four"]}}}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["use", "x"], InvalidRequest.exit_code, "error: Unknown context: x.\nhint: List contexts with `aima context"),
        (["set", "x"], 2, "error: Specify --url for a new context."),
        (["set", "x", "--url", "localhost:7080"], 82, "that is not a URL; write http://localhost:7080"),
    ],
)
def test_a_mistake_is_reported_and_stores_nothing(
    words: list[str], code: int, said: str, file: Path, aima: Aima
) -> None:
    outcome = aima("context", *words)

    assert outcome.code == code
    assert said in outcome.err
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ('{"current": null, "contexts": {}}', 0o644, "others can access it"),
        ("not JSON", 0o600, "is not a file of contexts"),
        ('{"current": "x", "contexts": {"x": {"urls": []}}}', 0o600, "is not a file of contexts"),
        ('{"current": "x", "contexts": {}}', 0o600, "is not a file of contexts"),
    ],
)
def test_a_file_that_is_malformed_or_open_to_others_is_refused(
    text: str, mode: int, said: str, file: Path, aima: Aima
) -> None:
    file.parent.mkdir()
    file.write_text(text)
    file.chmod(mode)

    outcome = aima("host", "list")

    assert outcome.code == BadSettings.exit_code
    assert said in outcome.err
