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


def test_a_setting_is_read_from_the_file_that_its_variable_names(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("redis://:secret-of-a-file@redis.example:6379/0\n")
    (tmp_path / "keys").write_text('["a-key-of-twenty-characters"]\n')
    monkeypatch.setenv("AIMA_REDIS__URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("AIMA_API__KEYS_FILE", str(tmp_path / "keys"))

    settings = load_settings()

    assert settings.redis.url.get_secret_value() == "redis://:secret-of-a-file@redis.example:6379/0"
    assert [key.get_secret_value() for key in settings.api.keys] == ["a-key-of-twenty-characters"]


def test_systemd_s_credentials_are_settings_above_aima_toml_and_below_the_environment(monkeypatch, tmp_path):
    (tmp_path / "aima.toml").write_text('signing_key = "of the file, thirty-two characters"\ninstallation = "file"')
    (tmp_path / "aima_signing_key").write_text("of the credential, 32 characters or more\n")
    (tmp_path / "aima_redis.url").write_text("redis://of-the-credential:6379/0")
    (tmp_path / "aima_host.name").write_text("of-the-credential")
    (tmp_path / "tls.key").write_text("of another program")
    monkeypatch.setenv("AIMA_CONFIG", str(tmp_path / "aima.toml"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("AIMA_REDIS__URL", "redis://of-the-environment:6379/0")
    (tmp_path / "name").write_text("of-the-named-file")
    monkeypatch.setenv("AIMA_HOST__NAME_FILE", str(tmp_path / "name"))

    settings = load_settings()

    assert settings.signing_key.get_secret_value() == "of the credential, 32 characters or more"
    assert settings.redis.url.get_secret_value() == "redis://of-the-environment:6379/0"
    assert (settings.host.name, settings.installation) == ("of-the-named-file", "file")


@pytest.mark.parametrize(
    ("file", "text", "reported"),
    [
        ("aima_redis.ulr", "redis://a", "AIMA_REDIS__ULR is not a setting: `ulr` is none of url."),
        ("aima_api.keys", "a-secret-key", "AIMA_API__KEYS is not JSON"),
    ],
)
def test_a_mistake_in_a_credential_is_reported_without_its_text(monkeypatch, tmp_path, file, text, reported):
    (tmp_path / file).write_text(text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    with pytest.raises(BadSettings) as refused:
        load_settings()

    assert reported in str(refused.value)
    assert text not in f"{refused.value} {refused.value.failure.hint}"


def test_a_credential_that_cannot_be_read_is_a_mistake(monkeypatch, tmp_path):
    monkeypatch.setenv("AIMA_REDIS__URL_FILE", str(tmp_path / "absent"))

    with pytest.raises(BadSettings, match=r"The credential .*/absent cannot be read: No such file or directory\."):
        load_settings()


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://127.0.0.1:7090/v1"),
        ({"BIND": "10.0.0.7", "PORT": "8000"}, "http://10.0.0.7:8000/v1"),
        ({"BIND": "::1"}, "http://[::1]:7090/v1"),
        ({"BIND": "0.0.0.0"}, "http://box.lan:7090/v1"),
        ({"URL": "https://models.lan/"}, "https://models.lan/v1"),
        ({"URL": "https://models.lan", "PORT": "0"}, "https://models.lan/v1"),
        ({"PORT": "0"}, None),
    ],
)
def test_the_url_for_applications_is_the_set_one_or_where_the_gateway_listens(monkeypatch, variables, url):
    monkeypatch.setenv("AIMA_HOST__ADDRESS", "box.lan")
    for name, value in variables.items():
        monkeypatch.setenv(f"AIMA_GATEWAY__{name}", value)

    assert load_settings().inference_url == url
