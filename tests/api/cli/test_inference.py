"""`aima chat`, `embed`, `speak` and `transcribe` against a scripted gateway."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import StandIn

from aima_api.cli.contexts import open_gateway
from aima_core.errors import exit_code_of

CHAT = "POST /v1/chat/completions"


@pytest.fixture(autouse=True)
def gateway(script: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The same scripted server plays the gateway."""
    monkeypatch.setenv("AIMA_GATEWAY_URL", script.url)
    return script


def streamed(*pieces: object, end: str = "data: [DONE]\n\n") -> bytes:
    chunks = [each if isinstance(each, dict) else {"choices": [{"delta": {"content": each}}]} for each in pieces]
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def test_an_answer_is_printed_as_it_is_streamed(aima: Aima, gateway: StandIn) -> None:
    gateway.answer(CHAT, streamed("Par", "is", {"choices": []}, {"choices": [{"delta": {}}]}))

    done = aima("chat", "smollm2-135m", "What is", "the capital?", "--system", "Be brief.", "--max-tokens", "9")

    assert (done.code, done.out) == (0, "Paris\n")
    assert gateway.asked(CHAT)[0].body == {
        "model": "smollm2-135m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is the capital?"},
        ],
        "max_tokens": 9,
        "stream": True,
    }


def test_the_question_can_come_from_stdin(aima: Aima, gateway: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\n"))
    gateway.answer(CHAT, streamed("Because."))

    assert aima("chat", "m").out == "Because.\n"
    assert gateway.asked(CHAT)[0].body["messages"] == [{"role": "user", "content": "Why?"}]


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(aima: Aima, gateway: StandIn) -> None:
    gateway.answer(CHAT, streamed("\x1b]0;owned\x07hello\nworld"))

    done = aima("chat", "m", "hi")

    assert "\x1b" not in done.out
    assert done.out.endswith("hello\nworld\n")


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (streamed("Par", end=""), "gateway_unavailable", "closed within the answer"),
        (streamed("Par", {"error": {"message": "It died.", "code": "engine_died"}}), "engine_died", "It died."),
    ],
)
def test_a_broken_stream_is_an_error(aima: Aima, gateway: StandIn, answer: bytes, code: str, text: str) -> None:
    gateway.answer(CHAT, answer)

    done = aima("chat", "m", "hi")

    assert done.code == exit_code_of(code)
    assert text in done.err and code in done.err


def test_an_error_of_the_gateway_has_its_code_and_hint(aima: Aima, gateway: StandIn) -> None:
    error = {"message": "Unknown model: m.", "type": "not_found_error", "code": "unknown_model", "hint": "Nearest: n."}
    gateway.answer(CHAT, {"error": error}, status=404)

    done = aima("chat", "m", "hi")

    assert done.code == 14
    assert "Unknown model: m." in done.err and "Nearest: n." in done.err


def test_a_server_that_is_no_gateway_is_named(aima: Aima, gateway: StandIn) -> None:
    gateway.answer(CHAT, {"detail": "Not found"}, status=404)

    done = aima("chat", "m", "hi")

    assert done.code == GatewayUnavailable.exit_code
    assert "not a gateway" in done.err


def test_without_a_gateway_the_error_names_how_to_start_one(aima: Aima, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMA_GATEWAY_URL", "http://127.0.0.1:9")

    done = aima("speak", "m", "hi", "--output", "-")

    assert done.code == GatewayUnavailable.exit_code
    assert "aima gateway" in done.err


def test_each_text_has_a_line_of_numbers(aima: Aima, gateway: StandIn) -> None:
    data = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1.5, 2]}]
    gateway.answer("POST /v1/embeddings", {"data": data})

    done = aima("embed", "e5", "one", "two")

    assert done.out == "[1.5, 2]\n[3, 4]\n"
    assert gateway.asked("POST /v1/embeddings")[0].body["input"] == ["one", "two"]


def test_speech_goes_to_a_file(aima: Aima, gateway: StandIn, tmp_path: Path) -> None:
    gateway.answer("POST /v1/audio/speech", b"RIFF\x00\xff")

    done = aima("speak", "joe", "Hello.", "--output", str(tmp_path / "a.wav"))

    assert done.code == 0
    assert (tmp_path / "a.wav").read_bytes() == b"RIFF\x00\xff"


def test_a_recording_is_sent_as_a_form(aima: Aima, gateway: StandIn, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    gateway.answer("POST /v1/audio/transcriptions", {"text": "Hello."})

    done = aima("transcribe", "whisper", str(tmp_path / "a.wav"), "--language", "en")

    sent: Any = gateway.asked("POST /v1/audio/transcriptions")[0]
    assert done.out == "Hello.\n"
    assert sent.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b"RIFF" in sent.body and b'name="language"' in sent.body and b'filename="a.wav"' in sent.body


def test_no_text_is_a_usage_error(aima: Aima, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    done = aima("speak", "m", "--output", "-")

    assert done.code == 2
    assert "text" in done.err


@pytest.mark.parametrize(
    ("api", "expected"),
    [
        ("http://127.0.0.1:7080", "http://127.0.0.1:7090"),
        ("https://api.example:443/x", "https://api.example:7090"),
        ("http://[::1]:7080", "http://[::1]:7090"),
    ],
)
def test_by_default_the_gateway_is_beside_the_api_node(api: str, expected: str) -> None:
    assert open_gateway(None, urls=api).url == expected
