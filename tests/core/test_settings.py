"""Mistakes in the settings: each is reported with its place and an example; an unknown setting is one, too."""

from __future__ import annotations

import pytest

from aima_core.errors import BadSettings
from aima_core.settings import load_settings


@pytest.mark.parametrize(
    ("variable", "value", "reported"),
    [
        ("AIMA_API__KEYS", "foo", 'AIMA_API__KEYS is not JSON; write it such as ["one", "two"].'),
        ("AIMA_HOST__LABELS", "desk", 'AIMA_HOST__LABELS is not JSON; write it such as {"name": "value"}.'),
        ("AIMA_HOST__FACTS", "none", "AIMA_HOST__FACTS is not JSON; write it such as {}."),
        ("AIMA_API__PROT", "1", "AIMA_API__PROT is not a setting: `prot` is none of port."),
        ("AIMA_RUNTIM", "fake", "AIMA_RUNTIM is not a setting: `runtim` is none of runtime."),
        ("AIMA_HOST__PORTS", "1-2", "`host.ports`: '1-2' is not a range of ports; write it such as `20000-20999`."),
        ("AIMA_API__PORT", "http", "`api.port`: Input should be a valid integer"),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable_and_an_example(monkeypatch, variable, value, reported):
    monkeypatch.setenv(variable, value)

    with pytest.raises(BadSettings) as refused:
        load_settings()

    assert reported in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("[api\nport = 1", "is not TOML: Expected ']' at the end of a table declaration"),
        ("[api]\nprot = 1", "`api.prot`: there is no such setting."),
        ("colour = 1", "`colour`: there is no such setting."),
    ],
)
def test_a_mistake_in_the_file_names_the_file(monkeypatch, tmp_path, text, reported):
    file = tmp_path / "aima.toml"
    file.write_text(text)
    monkeypatch.setenv("AIMA_CONFIG", str(file))

    with pytest.raises(BadSettings) as refused:
        load_settings()

    assert reported in str(refused.value)
    assert str(file) in f"{refused.value} {refused.value.failure.hint}"


def test_a_settings_file_that_does_not_exist_is_a_mistake(monkeypatch, tmp_path):
    monkeypatch.setenv("AIMA_CONFIG", str(tmp_path / "absent.toml"))

    with pytest.raises(BadSettings, match="there is no file"):
        load_settings()


def test_the_client_s_variables_are_no_mistake(monkeypatch):
    monkeypatch.setenv("AIMA_URL", "http://api.example:7080")
    monkeypatch.setenv("AIMA_KEY", "a-key")

    assert load_settings().api.port == 7080


def test_a_malformed_api_key_is_not_repeated_in_the_error(monkeypatch):
    monkeypatch.setenv("AIMA_API__KEYS", "a-secret-key")

    with pytest.raises(BadSettings) as refused:
        load_settings()

    assert "a-secret-key" not in f"{refused.value} {refused.value.failure.hint}"
