from __future__ import annotations

import locale
import os
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from contex_cli.times import read_time
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(autouse=True)
def _berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


def wednesday(hour: int = 12, minute: int = 0) -> datetime:
    return datetime(2026, 11, 25, hour, minute).astimezone()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("11:30", "2026-11-25T11:30:00+01:00"),
        ("15:30", "2026-11-24T15:30:00+01:00"),
        ("3:30 PM", "2026-11-24T15:30:00+01:00"),
        ("15:30:00.250", "2026-11-24T15:30:00.250000+01:00"),
        ("yesterday 15:30", "2026-11-24T15:30:00+01:00"),
        ("Yesterday at 15:30", "2026-11-24T15:30:00+01:00"),
        ("today", "2026-11-25T00:00:00+01:00"),
        ("yesterday", "2026-11-24T00:00:00+01:00"),
        ("2h ago", "2026-11-25T10:00:00+01:00"),
        ("90 minutes ago", "2026-11-25T10:30:00+01:00"),
        ("an hour ago", "2026-11-25T11:00:00+01:00"),
        ("1 month ago", "2026-10-25T12:00:00+01:00"),
        ("last monday", "2026-11-23T00:00:00+01:00"),
        ("last wednesday", "2026-11-18T00:00:00+01:00"),
        ("wednesday", "2026-11-18T00:00:00+01:00"),
        ("last friday 9:00", "2026-11-20T09:00:00+01:00"),
        ("2 days ago at 9:00", "2026-11-23T09:00:00+01:00"),
        ("noon", "2026-11-25T12:00:00+01:00"),
        ("Nov 24 15:30", "2026-11-24T15:30:00+01:00"),
        ("2026-07-01", "2026-07-01T00:00:00+02:00"),
        ("2026-11-24 15:30", "2026-11-24T15:30:00+01:00"),
        ("2026-11-24T15:30:00", "2026-11-24T15:30:00+01:00"),
        ("10:30 UTC", "2026-11-25T10:30:00+00:00"),
        ("11:30 UTC", "2026-11-24T11:30:00+00:00"),  # it is 11:00 there
    ],
)
def test_times_as_people_say_them(text: str, meant: str) -> None:
    read = read_time(text, wednesday())
    assert read is not None
    assert read.isoformat() == meant


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "12", "2026", "-1", "٣", "then", "31 Feb", "25:00", "01/02/2026", "1.2.2026"),
        *("yesterday 25:99", "yesterday 1530", "yesterday 25pm", "yesterday 15.30", "12:75"),
        *("1-2-3", "gestern", "hier 15:30", "il y a 2 heures", "0001-01-01", "x" * 500),
        "api_config",
    ],
)
def test_what_has_no_or_two_meanings_is_not_understood(text: str) -> None:
    assert read_time(text, wednesday()) is None


def test_a_time_of_day_is_the_last_one_there_was() -> None:
    read = read_time("15:30", wednesday(15, 31))
    assert read == datetime(2026, 11, 25, 14, 30, tzinfo=UTC)
    read = read_time("15:30", wednesday(15, 29))
    assert read == datetime(2026, 11, 24, 14, 30, tzinfo=UTC)


def test_hours_ago_are_counted_also_where_clocks_were_changed() -> None:
    after = datetime(2026, 10, 25, 3, 30).astimezone()  # 3:00 was 2:00 again
    read = read_time("2h ago", after)
    assert read is not None
    assert after - read == timedelta(hours=2)
    assert read.isoformat() == "2026-10-25T02:30:00+02:00"


def test_a_locale_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setattr(locale, "getlocale", lambda *_: ("de_DE", "UTF-8"))
    assert read_time("last monday", wednesday()) == datetime(2026, 11, 22, 23, tzinfo=UTC)


def test_no_warning_gets_out() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in ("24 Nov", "Nov 24 15:30", "15:30 CET", "last monday", "2h ago"):
            assert read_time(text, wednesday()) is not None
    assert caught == []


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_no_text_raises_anything(text: str) -> None:
    read = read_time(text, wednesday())
    assert read is None or read.tzinfo is not None
