from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from contex_cli.times import parse_end, parse_length, parse_moment, parse_place, parse_since
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("text", ["0", "5-0", "1764000000000-0", "1-18446744073709551615"])
def test_a_sequence_stays_text(text: str) -> None:
    assert parse_place(text) == text


@pytest.mark.parametrize("text", ["176400000000", "1764000000000"])
def test_a_long_bare_number_is_unix_milliseconds(text: str) -> None:
    assert parse_place(text) == int(text)


@pytest.mark.parametrize("text", ["176400000", "1764000000", "17640000000"])
def test_a_shorter_one_is_unix_seconds(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_place(text) == int(text) * 1_000
    instant = datetime.fromisoformat(capsys.readouterr().err.split(" = ")[1].strip())
    assert instant.timestamp() == int(text)


@pytest.mark.parametrize(
    ("text", "size"), [("5", "small"), ("12345678", "small"), ("1764000000000000", "large")]
)
def test_a_number_of_another_size_is_refused(text: str, size: str) -> None:
    with pytest.raises(ValueError, match=f"^{text} is too {size} for a time in seconds or milli"):
        parse_place(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("yesterday 25:99", "hour 25 is not from 0 to 23"),
        ("yesterday 12:75", "minute 75 is not from 0 to 59"),
        ("15:30:99", "second 99 is not from 0 to 59"),
        ("2026-11-24T24:00:00Z", "hour 24 is not from 0 to 23"),
        ("13:00 pm", "hour 13 before pm is not from 1 to 12"),
    ],
)
def test_a_time_of_day_out_of_range_names_its_field(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_place(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T15:30:00Z", datetime(2026, 1, 31, 15, 30, tzinfo=UTC)),
        ("2026-01-31 15:30:00.250+00:00", datetime(2026, 1, 31, 15, 30, 0, 250_000, tzinfo=UTC)),
        (
            "2026-01-31T15:30:00-02:00",
            datetime(2026, 1, 31, 15, 30, tzinfo=timezone(timedelta(hours=-2))),
        ),
    ],
)
def test_a_time_is_read(text: str, time: datetime) -> None:
    assert parse_place(text) == time


@pytest.mark.parametrize("text", ["then", "", "1-2-3", "-1", "٣", "01/02/2026", "12" * 20])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="neither a sequence") as refused:
        parse_place(text)
    for example in ("1764000000000-0", "2026-01-31T15:30:00Z", "15:30", "2h ago"):
        assert example in str(refused.value)


@pytest.mark.parametrize("text", ["15:30", "yesterday 15:30", "2h ago", "2026-01-31T15:30:00"])
def test_which_instant_was_meant_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    meant = parse_place(text)
    assert isinstance(meant, datetime)
    out, err = capsys.readouterr()
    assert out == ""
    name, instant = err.removesuffix("\n").split(" = ")
    assert name == text
    told = datetime.fromisoformat(instant)
    assert told.tzinfo is not None
    assert abs(told - meant) < timedelta(seconds=1)


@pytest.mark.parametrize("text", ["1764000000000", "5-0", "2026-01-31T15:30:00Z"])
def test_what_is_exact_needs_no_remark(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parse_place(text)
    assert capsys.readouterr() == ("", "")


def test_now_is_the_servers() -> None:
    assert parse_moment("now") is None
    assert parse_moment("5-0") == "5-0"
    assert isinstance(parse_place("now"), datetime)


@given(st.datetimes(), st.integers(-23 * 60, 23 * 60))
def test_every_time_with_a_zone_is_read(naive: datetime, offset_minutes: int) -> None:
    time = naive.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    assert parse_place(time.isoformat()) == time


@settings(deadline=None)
@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with suppress(ValueError):
        parse_place(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2999-01-31T15:30:00Z", "nothing yet: 2999-01-31T15:30:00.000Z is in the future\n"),
        ("4102444800000", "nothing yet: 2100-01-01T00:00:00.000Z is in the future\n"),
        ("2026-01-31T15:30:00Z", ""),
        ("99999999999999-0", ""),  # which the server refuses
    ],
)
def test_a_beginning_that_is_still_to_come_is_told_of(
    text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse_since(text) == parse_place(text)
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5_400),
        ("2 d", 172_800),
        ("1.5h", 5_400),
        ("1w", 604_800),
    ],
)
def test_a_length_of_time(text: str, seconds: int) -> None:
    assert parse_length(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "10y", "10m ago", "-5s", "1h-5m", "9" * 30 + "w"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no length of time; write it as 90s|too long"):
        parse_length(text)


def test_an_end_lies_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    past = (now - timedelta(minutes=5)).astimezone()
    for clock in (f"{past:%H:%M}", f"{past:%I:%M %p}"):
        end = parse_end(clock)
        assert timedelta(hours=23) < end - now < timedelta(days=1)
        # The one that holds, alone.
        assert capsys.readouterr().err == f"{clock} = {end.isoformat(timespec='seconds')}\n"
    for length, hours in (
        ("1h", 1),
        ("90 minutes", 1.5),
        ("1h30m", 1.5),
        ("1 day and 2 hours", 26),
    ):
        end = parse_end(length)
        assert timedelta() <= end - now - timedelta(hours=hours) < timedelta(minutes=1)
        assert capsys.readouterr().err.count("\n") == 1
    assert parse_end("2999-01-31T15:30:00Z") == datetime(2999, 1, 31, 15, 30, tzinfo=UTC)
    assert parse_end("1764000000000") == datetime.fromtimestamp(1_764_000_000, UTC)
    with pytest.raises(ValueError, match="is a sequence; give a time"):
        parse_end("5-0")
