"""Times as people say them, in English whatever the locale: "15:30", "2h ago", "last monday"."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

_DAYS = ("today", "yesterday")
_ELAPSED = re.compile(r".*\bago", re.IGNORECASE)
# "5" would be the fifth of this month, and "01/02/2026" one of two days.
_NAMES_SOMETHING = re.compile(r"(?=.*([a-z]|\d:\d))[ -~]{1,64}", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"(?<![\d:])\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b")
# In turn. A month without a day is its first; "a month ago" keeps the day.
_WAYS: list[dict[str, Any]] = [
    {"PARSERS": ["relative-time"]},
    {"PARSERS": ["absolute-time"], "PREFER_DATES_FROM": "past", "PREFER_DAY_OF_MONTH": "first"},
]


def read_time(text: str, now: datetime) -> datetime | None:
    """The instant that was meant, with its zone; None for what can't be understood.

    A time of day is the last one there was: "15:30" is today's, or yesterday's if that is still
    to come. "today" and "yesterday" begin at midnight, as "last monday" does; "2h ago" is counted
    in elapsed hours, also where the clocks were changed meanwhile. Without a zone of its own a
    time is local.

    Args:
        text: What was said.
        now: With the local zone.
    """
    with suppress(ValueError, OverflowError):
        spoken = _without_zone(text) or _spoken(" ".join(text.split()), now)
        if spoken is not None:
            return spoken if spoken.tzinfo is not None else spoken.astimezone()
    return None


def _without_zone(text: str) -> datetime | None:
    """A local date, or date and time, as ISO 8601 writes it."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _spoken(text: str, now: datetime) -> datetime | None:
    if not _NAMES_SOMETHING.fullmatch(text) or _AMBIGUOUS.search(text):
        return None
    if text.lower() in _DAYS:
        day = now.date() - timedelta(days=_DAYS.index(text.lower()))
        return datetime(day.year, day.month, day.day)
    if _ELAPSED.fullmatch(text):
        past = _parse(text, now.astimezone(UTC))
        return past and past.replace(tzinfo=UTC).astimezone()
    time = _parse(text, now)
    if time is not None and time.tzinfo is not None:
        # Whether "15:30 UTC" is still to come is a question to that zone's clock.
        return _parse(text, now.astimezone(time.tzinfo))
    return time


def _parse(text: str, now: datetime) -> datetime | None:
    """What the library makes of it; without a zone unless the text names one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dateparser  # 0.15 s

        for way in _WAYS:
            settings = {**way, "RELATIVE_BASE": now.replace(tzinfo=None)}
            found: datetime | None = dateparser.parse(text, languages=["en"], settings=settings)
            if found is not None:
                return found
    return None
