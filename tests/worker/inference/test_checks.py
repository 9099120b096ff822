"""The answers that an engine must give to be ready: right ones pass, each kind of wrong one is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.answering_engine import RIGHT_TEXT, AnsweringEngine, answering_engine, chat, embeddings, ranks, speech

from aima_core.domain.catalog import Ready
from aima_worker.inference import checks
from aima_worker.inference.checks import Check, Unanswered, WrongAnswer, checks_of, is_idle
from aima_worker.inference.http import Response, ask

CHAT, EMBEDDINGS, RERANK = "/v1/chat/completions", "/v1/embeddings", "/v1/rerank"
SPEECH, TRANSCRIPTIONS = "/v1/audio/speech", "/v1/audio/transcriptions"
EVERY_API = ("chat", "embeddings", "rerank", "speech", "transcriptions")
READY = Ready.model_validate({api: {} for api in EVERY_API} | {"embeddings": {"dimensions": 2}})
NAMES = ("smollm2-135m", "svc-llamacpp-smollm2-135m")
PAIR = ([1.0, 0.1], [1.0, 0.2])


@pytest.fixture(scope="module")
def shared() -> Iterator[AnsweringEngine]:
    with answering_engine() as engine:
        yield engine


@pytest.fixture
def engine(shared: AnsweringEngine) -> AnsweringEngine:
    shared.wrong.clear()
    shared.asked.clear()
    return shared


def check_of(path: str, *, names: tuple[str, ...] = NAMES) -> Check:
    return next(check for check in checks_of(READY, serves=EVERY_API, names=names) if check.path == path)


def test_right_answers_pass(engine: AnsweringEngine) -> None:
    for check in checks_of(READY, serves=EVERY_API, names=NAMES):
        check.run(ask, engine.url)

    assert engine.asked == [CHAT, EMBEDDINGS, RERANK, SPEECH, TRANSCRIPTIONS]


def test_only_what_the_model_serves_is_asked() -> None:
    asked = [check.path for check in checks_of(READY, serves=("rerank",), names=())]

    assert asked == [RERANK]


@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        (CHAT, chat("GLM-4.7-Flash"), "its model is 'GLM-4.7-Flash' instead of 'smollm2-135m'"),
        (CHAT, chat("smollm2-135m", text=""), "it has no text"),
        (CHAT, chat("smollm2-135m", text=None), "it has no text"),
        (CHAT, {"model": "smollm2-135m"}, "choices: Field required"),
        (CHAT, b"<html>welcome</html>", "the answer: Invalid JSON"),
        (CHAT, b"[" * 1_000_000, "the answer: Invalid JSON"),
        (CHAT, b'{"x": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", "Invalid JSON"),
        (EMBEDDINGS, embeddings("another"), "its model is 'another'"),
        (EMBEDDINGS, embeddings("smollm2-135m", ([float("nan"), 0.1], *PAIR)), "not finite"),
        (EMBEDDINGS, embeddings("smollm2-135m", ([float("inf"), 0.1], *PAIR)), "not finite"),
        (EMBEDDINGS, embeddings("smollm2-135m", ([1.0], [1.0], [0.1])), "1 numbers instead of 2 numbers each"),
        (EMBEDDINGS, embeddings("smollm2-135m", PAIR), "not one vector for each of 3 texts"),
        (EMBEDDINGS, embeddings("smollm2-135m", ([0.0, 0.0],) * 3), "unlike texts are as near"),
        (EMBEDDINGS, embeddings("smollm2-135m", ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0])), "unlike texts are as near"),
        (RERANK, ranks({0: True, 1: False, 2: False}), "an unrelated document above the fitting one"),
        (RERANK, ranks({1: True}), "does not rank each of 3 documents once"),
        (SPEECH, speech(loudness=0), "silent"),
        (SPEECH, speech(loudness=20), "silent"),
        (SPEECH, speech(seconds=0.1), "lasts 0.1 s"),
        (SPEECH, speech(seconds=0), "lasts 0.0 s"),
        (SPEECH, speech()[:30], "no WAV file"),
        (SPEECH, b"ID3\x04mp3", "no WAV file"),
        (TRANSCRIPTIONS, {"text": "Thank you."}, "recognizes 'Thank you.'"),
        (TRANSCRIPTIONS, {"text": ""}, "recognizes ''"),
        (TRANSCRIPTIONS, {"text": "x" * 100_000}, "…'"),
    ],
)
def test_a_wrong_answer_is_named(engine: AnsweringEngine, path: str, answer: Any, problem: str) -> None:
    engine.wrong[path] = answer

    with pytest.raises(WrongAnswer) as wrong:
        check_of(path).run(ask, engine.url)

    assert problem in str(wrong.value)
    assert len(str(wrong.value)) <= 250


@pytest.mark.parametrize("answer", [503, 404, 500, b" " * (checks.ANSWER_LIMIT + 1)])
def test_an_error_or_an_endless_answer_is_none(engine: AnsweringEngine, answer: Any) -> None:
    engine.wrong[CHAT] = answer

    with pytest.raises(Unanswered):
        check_of(CHAT).run(ask, engine.url)


def test_nothing_that_listens_is_no_answer() -> None:
    with pytest.raises(Unanswered, match="refused"):
        check_of(CHAT).run(ask, "http://127.0.0.1:9")


def test_any_name_is_right_for_an_engine_whose_names_are_unknown(engine: AnsweringEngine) -> None:
    engine.wrong[CHAT] = chat("whatever")

    check_of(CHAT, names=()).run(ask, engine.url)


def test_a_transcript_is_compared_by_its_words(engine: AnsweringEngine) -> None:
    engine.wrong[TRANSCRIPTIONS] = {"text": f"  {RIGHT_TEXT.lower().rstrip('?')}."}

    check_of(TRANSCRIPTIONS).run(ask, engine.url)


@given(body=st.binary(max_size=200) | st.binary(max_size=80).map(lambda rest: speech()[:44] + rest))
def test_no_bytes_break_the_judgement_of_speech(body: bytes) -> None:
    try:
        check_of(SPEECH).judge(body)
    except WrongAnswer as wrong:
        assert str(wrong)


@given(
    answer=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["model", "data", "embedding", "index", "results", "relevance_score", "choices", "text"]
                ),
                inner,
                max_size=4,
            )
        ),
    ),
    path=st.sampled_from([CHAT, EMBEDDINGS, RERANK, TRANSCRIPTIONS]),
)
def test_no_json_breaks_a_judgement(answer: Any, path: str) -> None:
    try:
        check_of(path).judge(json.dumps(answer).encode())
    except WrongAnswer as wrong:
        assert str(wrong)


def test_the_recording_is_small() -> None:
    assert checks.RECORDING.stat().st_size <= 60_000


@pytest.mark.parametrize(
    ("metrics", "idle"),
    [
        ('# HELP running x\nrunning 0\nwaiting{engine="0",model="a b"} 0.0\n', True),
        ("running 0\nwaiting 1\n", False),
        ('running 0\nwaiting{a="1"} 0\nwaiting{a="2"} 3\n', False),
        ("running 0\n", False),
        ("running 0\nwaiting nonsense\n", False),
        ("", False),
    ],
)
def test_an_engine_is_idle_if_all_its_gauges_are_zero(metrics: str, idle: bool) -> None:
    assert is_idle(lambda *_: Response(200, metrics.encode()), "http://engine", ["running", "waiting"]) is idle


def test_an_engine_without_gauges_is_never_known_to_be_idle() -> None:
    assert not is_idle(lambda *_: Response(200, b"running 0"), "http://engine", [])
