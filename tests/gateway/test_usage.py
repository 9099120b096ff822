"""Usage: asked for on every stream, hidden from who did not ask, and counted by model and key; audio as well."""

from __future__ import annotations

import pytest
from lab.answering_engine import speech
from lab.parts import eventually

from aima_api.gateway.inference import Inference
from aima_api.gateway.streams import EventRelay, Usage, read_usage

MODEL, ASK = "dial", [{"role": "user", "content": "x"}]
pytestmark = pytest.mark.redis


def counted(door, metric: str, labels: str = "") -> float:
    line = f'aima_gateway_{metric}_total{{{labels}key="(local)",model="{MODEL}"}} '
    found = [each for each in door.client.get("/metrics").text.splitlines() if each.startswith(line)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def tokens(door, direction: str, estimated: str = "false") -> float:
    return counted(door, "tokens", f'direction="{direction}",estimated="{estimated}",')


def test_the_engine_is_always_asked_and_the_client_sees_no_usage_that_it_did_not_ask_for(client, engine, door):
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True))

    assert engine.received[-1].json["stream_options"] == {"include_usage": True}
    assert [each.usage for each in chunks] == [None] * 5
    # The client leaves at [DONE], and the gateway counts once it notices that.
    assert eventually(lambda: (tokens(door, "input"), tokens(door, "output")) == (7, 5))


def test_a_client_that_asks_gets_it(client, engine):
    options = {"include_usage": True, "continuous": 1}

    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True, stream_options=options))

    assert chunks[-1].usage.completion_tokens == 5
    assert engine.received[-1].json["stream_options"] == options


def test_a_client_that_declines_does_not_see_it(client, engine):
    options = {"include_usage": False}

    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True, stream_options=options))

    assert (len(chunks), engine.received[-1].json["stream_options"]) == (5, {"include_usage": True})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages", "responses"])
def test_the_counted_tokens_are_the_engines_own(door, engine, path, stream):
    engine.plays(tokens=37)
    body = {"model": MODEL, "messages": ASK, "prompt": "x", "input": "x", "max_tokens": 99, "stream": stream}

    for _ in range(4):
        assert door.client.post(f"/v1/{path}", json=body).status_code == 200

    assert (tokens(door, "input"), tokens(door, "output"), tokens(door, "output", "true")) == (28, 148, 0)


def test_a_stream_that_broke_is_estimated_by_its_parts(door, engine):
    engine.plays(tokens=60, cut_after=40)

    door.client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK, "stream": True})

    assert eventually(lambda: tokens(door, "output", "true") == 40)
    assert tokens(door, "output") == 0


# Audio ----------------------------------------------------------------------------------------------------------------


def streamed(wav: bytes) -> bytes:
    """As a recorder writes it that does not know its size."""
    at = wav.index(b"data") + 4
    return wav[:at] + b"\xff\xff\xff\xff" + wav[at + 4 :]


def with_a_comment(wav: bytes) -> bytes:
    """Before its data, and of an odd size."""
    at = wav.index(b"data")
    return wav[:at] + b"LIST\x03\x00\x00\x00abc\x00" + wav[at:]


def transcribed(client, what: str, file: bytes, **more):
    return getattr(client.audio, what).create(model=MODEL, file=("a", file), **more)


def test_the_characters_of_spoken_texts_are_counted(client, door):
    for text in ("Grüße!", "Hello"):
        client.audio.speech.create(model=MODEL, voice="alloy", input=text).read()

    assert counted(door, "speech_characters") == 6 + 5


def test_a_text_that_the_engine_refuses_is_not_counted(door, engine):
    engine.plays(status=400)

    door.client.post("/v1/audio/speech", json={"model": MODEL, "voice": "alloy", "input": "Hello"})
    door.client.post("/v1/audio/speech", json={"model": MODEL, "voice": "alloy", "input": ["Hello"]})

    assert counted(door, "speech_characters") == 0


@pytest.mark.parametrize("what", ["transcriptions", "translations"])
@pytest.mark.parametrize(
    "answer", [{"duration": 3.25}, {"duration": "3.25"}, {"usage": {"type": "duration", "seconds": 3.25}}]
)
def test_the_engines_own_duration_counts(client, door, engine, what, answer):
    engine.plays(transcript=answer)

    transcribed(client, what, speech(seconds=1.5))

    assert counted(door, "audio_seconds") == 3.25


@pytest.mark.parametrize("as_recorded", [bytes, streamed, with_a_comment])
def test_without_one_the_header_of_a_wav_file_counts(client, door, as_recorded):
    transcribed(client, "transcriptions", as_recorded(speech(seconds=1.5)))

    assert counted(door, "audio_seconds") == pytest.approx(1.5)


@pytest.mark.parametrize("duration", ["null", "-1", "0", '"long"', '{"seconds": 3}', "[]", '"inf"', "1e999"])
def test_what_is_no_duration_counts_as_none_and_spoils_no_tokens(duration):
    usage = Usage()

    read_usage(b'{"duration": %s, "usage": {"input_tokens": 4, "seconds": %s}}' % ((duration.encode(),) * 2), usage)

    assert (usage.audio_seconds, usage.input) == (0, 4)


def test_a_recording_of_unknown_duration_is_not_counted(client, door):
    wav = speech()
    for file in (b"", b"ID3" + bytes(1000), b"RIFF", wav[:20], b"RIFFxxxxWAVE" + bytes(1000), wav[:44]):
        assert transcribed(client, "transcriptions", file).text

    assert counted(door, "audio_seconds") == 0


def test_a_recording_that_the_engine_refuses_is_not_counted(door, engine):
    engine.plays(status=400)

    door.client.post("/v1/audio/transcriptions", data={"model": MODEL}, files={"file": ("a.wav", speech())})

    assert counted(door, "audio_seconds") == 0


def test_the_duration_in_a_stream_counts_and_its_tokens_are_not_estimated():
    event = b'data: {"type":"transcript.text.done","text":"Hi","usage":{"type":"duration","seconds":3}}\n\n'
    stream = EventRelay(Inference.TRANSCRIPTIONS, hides_usage=False, rename=None)

    assert stream.feed(event) == event
    assert (stream.usage.audio_seconds, stream.usage.output) == (3, 0)
