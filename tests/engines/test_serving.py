"""The portable engines serve requests, in a container and natively."""

from __future__ import annotations

import array
import io
import json
import wave
from urllib.error import HTTPError

import pytest
from engines.conftest import Starter

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture(params=["shared_natively", pytest.param("shared_in_docker", marks=pytest.mark.docker)])
def start(request: pytest.FixtureRequest) -> Starter:
    starter: Starter = request.getfixturevalue(request.param)
    return starter


def spoken(text: str, start: Starter) -> bytes:
    """A WAV file of the text in slow speech."""
    return start("espeak-cpu").ask("/v1/audio/speech", body=json.dumps({"input": text, "speed": 0.8}).encode())


def test_the_language_model_knows_the_capital_of_france(start: Starter) -> None:
    model = start("llamacpp-smollm2-cpu")

    answer = model.ask_json("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}]})

    assert "Paris" in json.dumps(answer["choices"])


def test_the_language_model_is_served_under_its_name(start: Starter) -> None:
    model = start("llamacpp-smollm2-cpu")

    models = json.loads(model.ask("/v1/models"))

    assert [each["id"] for each in models["data"]] == ["SmolLM2-135M"]


def test_loading_progress_is_logged(start: Starter) -> None:
    model = start("llamacpp-smollm2-cpu")

    assert any("loading model" in line for line in model.lines())


def test_synthesized_speech_is_not_silent(start: Starter) -> None:
    recording = spoken("The quick brown fox jumps over the lazy dog.", start)

    with wave.open(io.BytesIO(recording)) as reader:
        samples = array.array("h", reader.readframes(reader.getnframes()))
        seconds = reader.getnframes() / reader.getframerate()
    assert 1 < seconds < 10
    assert max(samples) > 3000


def test_synthesized_speech_is_transcribed_correctly(start: Starter) -> None:
    recording = spoken("one two three four five", start)

    received = json.loads(
        start("pocketsphinx-cpu").ask("/v1/audio/transcriptions", body=recording, content_type="audio/wav")
    )

    assert "three four five" in received["text"]


def test_a_recording_can_be_sent_as_a_form(start: Starter) -> None:
    recording = spoken("one two three four five", start)
    head = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    form = head + recording + b"\r\n--cut--\r\n"

    answer = start("pocketsphinx-cpu").ask(
        "/v1/audio/transcriptions", body=form, content_type="multipart/form-data; boundary=cut"
    )

    assert "three four five" in json.loads(answer)["text"]


@pytest.mark.parametrize(
    ("engine", "path"), [("espeak-cpu", "/v1/audio/speech"), ("pocketsphinx-cpu", "/v1/audio/transcriptions")]
)
def test_an_invalid_request_is_answered_with_a_valid_example(start: Starter, engine: str, path: str) -> None:
    with pytest.raises(HTTPError) as answered:
        start(engine).ask(path, body=b"nonsense")

    assert answered.value.code == 400
    assert json.loads(answered.value.read())["error"]
