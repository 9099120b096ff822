"""The Lua scripts name their keys, their arguments and the libraries that they use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aima_core.redis.scripts import script_named

LUA = Path(__file__).parents[2] / "aima_core" / "redis" / "lua"
SCRIPTS = sorted(path for path in LUA.rglob("*.lua") if path.parent.name != "lib")
LIBRARIES = {path.stem: path.read_text() for path in (LUA / "lib").glob("*.lua")}
NAMING = re.compile(r"local [\w, ]+ = \{?unpack\((KEYS|ARGV)(, \d+)*\)\}?")
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")


def code(text: str) -> str:
    return re.sub(r"--.*", "", text)


def functions(library: str) -> list[str]:
    return re.findall(r"^local function (\w+)", LIBRARIES[library], re.MULTILINE)


def calls(text: str, library: str) -> bool:
    return any(re.search(rf"\b{function}\(", code(text)) for function in functions(library))


@every_script
def test_a_script_names_its_keys_and_arguments_in_its_first_lines_and_uses_only_the_names_below(script):
    lines = [line for line in code(script.read_text()).splitlines() if line.strip()]
    named = next((at for at, line in enumerate(lines) if not NAMING.fullmatch(line)), len(lines))

    assert named, "it names no keys"
    assert [line for line in lines[named:] if re.search(r"\b(KEYS|ARGV)\b", line)] == []


@every_script
def test_a_script_names_exactly_the_libraries_that_it_uses(script):
    text = script.read_text()
    first = text.partition("\n")[0]
    named = first.removeprefix("-- uses: ").split(", ") if first.startswith("-- uses: ") else []

    used = {library for library in LIBRARIES if calls(text, library)}
    used |= {library for library in LIBRARIES for user in used if user != library and calls(LIBRARIES[user], library)}

    assert sorted(named) == sorted(used)


@every_script
def test_a_library_is_defined_before_its_users(script):
    text = code(script_named(str(script.relative_to(LUA).with_suffix(""))).text)

    for function in (name for library in LIBRARIES for name in functions(library)):
        if defined := re.search(rf"^local function {function}\b", text, re.MULTILINE):
            assert re.search(rf"\b{function}\(", text).start() >= defined.start()


@every_script
def test_a_script_documents_its_reply_in_its_head(script):
    head = script.read_text().partition("\nlocal ")[0]

    assert re.search(r"^-- Returns ", head, re.MULTILINE) or script.stem == "set_range"
