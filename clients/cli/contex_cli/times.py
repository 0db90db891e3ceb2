"""Places in a log as people type them, and as people read them."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import contex

Place: TypeAlias = str | int | datetime
"""As the client takes it: a sequence, milliseconds since 1970, or a time with a zone."""

_SEQUENCE = re.compile(r"[0-9]{1,20}-[0-9]{1,20}|0")
# From 1973 on, and up to the year 5138.
_UNIX_S = re.compile(r"[1-9][0-9]{8,10}")
_UNIX_MS = re.compile(r"[1-9][0-9]{11,13}")
_LENGTH_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NOT_UNDERSTOOD = (
    "is neither a sequence (1764000000000-0, or 0 for the beginning) nor a time; times are "
    "written as 2026-01-31T15:30:00Z, 1764000000 (Unix seconds), 1764000000000 (milliseconds), "
    "15:30, 'yesterday 15:30', '2h ago' or 'last monday'"
)
_DAYS = ("today", "yesterday")
_DAY = re.compile(r"\b(?:today|yesterday|tomorrow)\b(?: at\b)?", re.IGNORECASE)
# Not the offset of a zone.
_CLOCK = re.compile(
    r"(?<![0-9:+-])([0-9]+):([0-9]+)(?::([0-9]+))?(?:[.,][0-9]+)?(?: ?([ap])\.?m\b)?", re.IGNORECASE
)
_HOUR = re.compile(r"[0-9]{1,2} ?[ap]\.?m\.?", re.IGNORECASE)
_SPOKEN_LENGTH = (
    r"(?:[0-9]+(?:\.[0-9]+)?\s*"
    r"(?:s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?|months?|years?)"
    r"(?:,?\s*(?:and\b\s*)?))+"
)
_LENGTH = re.compile(_SPOKEN_LENGTH, re.IGNORECASE)
_ELAPSED = re.compile(rf".*\bago|in {_SPOKEN_LENGTH}", re.IGNORECASE)
# "5" would be the fifth of this month, and "01/02/2026" one of two days.
_NAMES_SOMETHING = re.compile(r"(?=.*([a-z]|\d:\d))[ -~]{1,64}", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"(?<![\d:])\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b")
# Tried in turn. A month without a day is its first; "a month ago" keeps the day.
_PARSERS: list[dict[str, Any]] = [
    {"PARSERS": ["relative-time"]},
    {"PARSERS": ["absolute-time"], "PREFER_DATES_FROM": "past", "PREFER_DAY_OF_MONTH": "first"},
]
_BEFORE_THE_FIRST = "0-0"


def parse_place(text: str, *, ahead: bool = False) -> Place:
    """Reads a sequence (kept as text), Unix milliseconds, or a time in any of several forms.

    A bare number of 9 to 11 digits is Unix seconds, of 12 to 14 digits milliseconds; "0" is the
    beginning. Seconds, a time without a zone, or in words, are repeated on stderr as the instant
    that was understood. `ahead` is of a time to come: see `parse_end`.
    """
    place = read_place(text, ahead=ahead)
    if place is None:
        if problem := clock_problem(text):
            raise ValueError(f"{text!r} is not a time: {problem}")
        if text.isdecimal() and text.isascii():
            size = "small" if int(text) < 10**8 else "large"
            text = f"{text} is too {size} for a time in seconds or milliseconds since 1970; it"
        else:
            text = repr(text)
        raise ValueError(f"{text} {_NOT_UNDERSTOOD}")
    return place


def parse_since(text: str) -> Place:
    """The same for the place where reading begins; says on stderr if that is still to come."""
    place = parse_place(text)
    if not isinstance(place, str):
        time = place if isinstance(place, datetime) else datetime.fromtimestamp(place / 1_000, UTC)
        if time > datetime.now(UTC):
            print(f"nothing yet: {rfc3339(time)} is in the future", file=sys.stderr)
    return place


def parse_end(text: str) -> datetime:
    """Reads a time to come, in the forms of `parse_place`; a time of day is the next there will be,
    and a length of time counts from now.

    One that has passed is left to the server, whose clock counts.
    """
    place = parse_place(text, ahead=True)
    if isinstance(place, str):
        raise ValueError(f"{text!r} is a sequence; give a time")
    if isinstance(place, int):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=place)
    return place


def parse_length(text: str) -> timedelta:
    """Reads a length of time: "90s", "10m", "1h30m", "2 d"."""
    parts = _LENGTH_PART.findall(text)
    if not parts or "".join(f"{n}{u}" for n, u in parts) != re.sub(r"\s", "", text):
        raise ValueError(
            f"{text!r} is no length of time; write it as 90s, 10m, 1h30m or 2d "
            "(s, m, h, d and w are the units)"
        )
    try:
        return sum((timedelta(**{_UNITS[u]: float(n)}) for n, u in parts), timedelta())
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def parse_moment(text: str) -> Place | None:
    """The same for an option that defaults to now: "now" is then the server's, not this clock's."""
    return None if text == "now" else parse_place(text)


def read_place(text: str, *, ahead: bool = False) -> Place | None:
    """As `parse_place`, but returns None for what can't be understood."""
    if _SEQUENCE.fullmatch(text):
        return text
    if _UNIX_MS.fullmatch(text):
        return int(text)
    if _UNIX_S.fullmatch(text):
        print(f"{text} = {rfc3339(datetime.fromtimestamp(int(text), UTC))}", file=sys.stderr)
        return int(text) * 1_000
    with suppress(ValueError):
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time
    now = datetime.now().astimezone()
    spoken = f"in {text.strip()}" if ahead and _LENGTH.fullmatch(text.strip()) else text
    understood = None if text.isdecimal() else read_time(spoken, now)
    if understood is not None:
        if ahead and understood <= now and _is_time_of_day(text.strip()):
            understood += timedelta(days=1)
        precision = "milliseconds" if understood.microsecond else "seconds"
        print(f"{text} = {understood.isoformat(timespec=precision)}", file=sys.stderr)
    return understood


def _is_time_of_day(text: str) -> bool:
    return bool(_CLOCK.fullmatch(text) or _HOUR.fullmatch(text))


def clock_problem(text: str) -> str:
    """Which part of a time of day is out of its range; empty if none is."""
    for hour, minute, second, half in _CLOCK.findall(text):
        if half and not 1 <= int(hour[:9]) <= 12:
            return f"the hour {hour} before {half.lower()}m is not from 1 to 12"
        for name, value, highest in (
            ("hour", hour, 23),
            ("minute", minute, 59),
            ("second", second or "0", 59),
        ):
            if int(value[:9]) > highest:
                return f"the {name} {value} is not from 0 to {highest}"
    return ""


def misread_clock(text: str) -> str:
    """The same where the rest of the text is a time, so that one was meant."""
    problem = clock_problem(text)
    rest = _CLOCK.sub("", text).strip()
    meant = not rest or read_time(rest, datetime.now().astimezone()) is not None
    return problem if meant else ""


def read_time(text: str, now: datetime) -> datetime | None:
    """Reads a time as people say it, in English whatever the locale: "2h ago", "last monday".

    A time of day is the last one there was: "15:30" is today's, or yesterday's if that is still
    to come. "today" and "yesterday" begin at midnight, as "last monday" does; "2h ago" is counted
    in elapsed hours, also where the clocks were changed meanwhile. Without a zone of its own a
    time is local.

    Returns the instant with its zone, or None if the text can't be understood.
    """
    with suppress(ValueError, OverflowError):
        try:
            time: datetime | None = datetime.fromisoformat(text)
        except ValueError:
            time = _spoken(" ".join(text.split()), now)
        if time is not None:
            return time if time.tzinfo is not None else time.astimezone()
    return None


def _spoken(text: str, now: datetime) -> datetime | None:
    if not _NAMES_SOMETHING.fullmatch(text) or _AMBIGUOUS.search(text) or clock_problem(text):
        return None
    if text.lower() in _DAYS:
        day = now.date() - timedelta(days=_DAYS.index(text.lower()))
        return datetime(day.year, day.month, day.day)
    # dateparser ignores what it can't read beside such a word.
    rest, days = _DAY.subn("", text)
    if days and rest.strip() and _spoken(rest.strip(), now) is None:
        return None
    if _ELAPSED.fullmatch(text):
        past = _parse(text, now.astimezone(UTC))
        return past and past.replace(tzinfo=UTC).astimezone()
    time = _parse(text, now)
    if time is not None and time.tzinfo is not None:
        # Whether "15:30 UTC" is still to come is a question to that zone's clock.
        return _parse(text, now.astimezone(time.tzinfo))
    return time


def _parse(text: str, now: datetime) -> datetime | None:
    """What dateparser makes of it; without a zone unless the text names one."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dateparser  # 0.15 s

        for parsers in _PARSERS:
            settings = {**parsers, "RELATIVE_BASE": now.replace(tzinfo=None)}
            time: datetime | None = dateparser.parse(text, languages=["en"], settings=settings)
            if time is not None:
                return time
    return None


def rfc3339(time: datetime) -> str:
    """UTC with milliseconds, as `--since` reads it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_text(moment: contex.Moment) -> str:
    """The instant and the newest event that counts."""
    event = "before the first event" if moment.sequence == _BEFORE_THE_FIRST else moment.sequence
    return f"{instant_text(moment.time)}, {event}"


def instant_text(time: datetime) -> str:
    """UTC, and the local time where it differs."""
    local = time.astimezone()
    if not local.utcoffset():
        return rfc3339(time)
    return f"{rfc3339(time)} ({local:%Y-%m-%d %H:%M:%S %z})"


def length_text(length: timedelta) -> str:
    """A length of time as `parse_length` reads it, in at most two units: 1h 30m, 4.2s."""
    seconds = length.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    left, parts = round(seconds), list[str]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def ago_text(time: datetime | None) -> str:
    """How long ago a time was by this machine's clock, which may differ from the store's."""
    if time is None:
        return "not known"
    return f"{length_text(max(datetime.now(UTC) - time, timedelta()))} ago"


def sequence_text(sequence: str) -> str:
    if sequence in ("", _BEFORE_THE_FIRST):
        return "none"
    unix_ms = int(sequence.partition("-")[0])
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
    return f"{sequence}  {rfc3339(time)}"
