"""Durations and sizes are parsed with their unit, and a printed value parses to the same value."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ByteSize, ValidationError

from aima_core.domain.units import Duration, Size, format_duration, format_size, parse_duration


class Sized(BaseModel):
    size: Size


class Timed(BaseModel):
    duration: Duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("90s", timedelta(seconds=90)),
        ("1.5s", timedelta(seconds=1.5)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_parsed_with_its_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@given(st.integers(min_value=0, max_value=999_999 * 86_400_000))
def test_a_printed_duration_parses_to_the_same_duration(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)

    assert parse_duration(format_duration(duration)) == duration


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_survives_serialization(milliseconds: int) -> None:
    sent = Timed(duration=timedelta(milliseconds=milliseconds))

    assert Timed.model_validate_json(sent.model_dump_json()) == sent
    assert Timed.model_validate(sent.model_dump()) == sent


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(minutes=90), "1h30m"),
        (timedelta(seconds=60), "1m"),
        (timedelta(0), "0s"),
        (timedelta(seconds=1.25), "1s250ms"),
    ],
)
def test_a_duration_is_printed_in_its_shortest_form(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    "value",
    [5, 5.0, True, None, "", "5", "s", "5 s", "-5s", "5S", "5y", "1h 30m", "٣s", "5s\n", "9" * 400 + "s", "1e3s"],
)
def test_a_malformed_duration_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match="write a number and its unit, such as `30s`"):
        parse_duration(value)


@given(st.text(alphabet="0123456789.dhms", max_size=60))
def test_any_digits_and_units_parse_as_a_duration_or_are_refused(text: str) -> None:
    try:
        assert parse_duration(text) >= timedelta(0)
    except ValueError as refused:
        assert "is not a duration" in str(refused)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512B", 512),
        ("500MB", 500 * 10**6),
        ("25GB", 25 * 10**9),
        ("25 gb", 25 * 10**9),
        ("2.2GB", 2_200_000_000),
        ("1.5GiB", 3 * 2**29),
    ],
)
def test_a_size_is_parsed_with_its_unit(text: str, size: int) -> None:
    assert Sized.model_validate({"size": text}).size == size


@given(st.integers(min_value=0, max_value=2**53))
def test_a_size_survives_serialization_and_revalidation(size: int) -> None:
    sent = Sized(size=ByteSize(size))

    assert Sized.model_validate_json(sent.model_dump_json()) == sent
    assert Sized(size=sent.size) == sent


@pytest.mark.parametrize(
    "value", [25, 0, -5, 2.5, True, None, "25", "GB", "25 XB", "-3GB", "٣GB", "9" * 400 + "GB", "1GB\n"]
)
def test_a_malformed_size_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValidationError, match="write a number and its unit, such as `500MB` or `25GB`"):
        Sized.model_validate({"size": value})


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (24_700_000_000, "24.7 GB"),
        (128 * 10**9, "128 GB"),
        (2.5 * 10**12, "2.5 TB"),
    ],
)
def test_a_size_is_printed_in_three_digits_and_a_decimal_unit(size: float, text: str) -> None:
    assert format_size(size) == text
