from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer
from contex_server.cli.positions import parse_position
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "text", ["0", "1764000000000", "1764000000000-0", "1-18446744073709551615"]
)
def test_a_sequence_stays_text(text: str) -> None:
    assert parse_position(text, "--since") == text


def test_nothing_stays_nothing() -> None:
    assert parse_position(None, "--since") is None


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
    assert parse_position(text, "--since") == time


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2026-01-31T15:30:00", "no time zone"),
        ("2026-01-31", "no time zone"),
        ("yesterday", "neither"),
        ("", "neither"),
        ("1-2-3", "neither"),
        ("-1", "neither"),
        ("٣", "neither"),
    ],
)
def test_anything_else_is_refused(text: str, told: str) -> None:
    with pytest.raises(typer.BadParameter, match=told):
        parse_position(text, "--since")


@given(st.datetimes(), st.integers(-23 * 60, 23 * 60))
def test_every_time_with_a_zone_is_read(naive: datetime, offset_minutes: int) -> None:
    time = naive.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    assert parse_position(time.isoformat(), "--since") == time


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with suppress(typer.BadParameter):
        parse_position(text, "--until")
