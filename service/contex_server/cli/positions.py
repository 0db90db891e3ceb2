"""Places in a log as people type them."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from typing import TypeAlias

import typer

from contex_server.cli.spoken_times import read_time

Place: TypeAlias = str | int | datetime
"""As the client takes it: a sequence, milliseconds since 1970, or a time with a zone."""

_SEQUENCE = re.compile(r"[0-9]{1,20}-[0-9]{1,20}|[0-9]{1,11}")
_UNIX_MS = re.compile(r"[0-9]{12,16}")
_NOT_UNDERSTOOD = (
    "is neither a sequence (1764000000000-0) nor a time; times are written as "
    "2026-01-31T15:30:00Z, 1764000000000 (Unix milliseconds), 15:30, 'yesterday 15:30', "
    "'2h ago' or 'last monday'"
)


def parse_position(text: str | None, option: str) -> Place | None:
    """Reads a sequence (kept as text), Unix milliseconds, or a time in any of several forms.

    What is no instant by itself, a time without a zone or said in words, is told on stderr as
    the instant that was meant. A bare number is a sequence up to 11 digits and Unix milliseconds
    from 12 on.

    Args:
        text: What was typed; None gives None.
        option: Which option it was typed at, for the error.

    Raises:
        typer.BadParameter: It can't be understood.
    """
    if text is None:
        return None
    place = read_position(text)
    if place is None:
        raise typer.BadParameter(f"{text!r} {_NOT_UNDERSTOOD}", param_hint=option)
    return place


def parse_moment(text: str | None, option: str) -> Place | None:
    """The same where leaving it out means now: "now" is then the server's, not this clock's.

    Raises:
        typer.BadParameter: It can't be understood.
    """
    return None if text == "now" else parse_position(text, option)


def read_position(text: str) -> Place | None:
    """The same, with None for what can't be understood."""
    if _SEQUENCE.fullmatch(text):
        return text
    if _UNIX_MS.fullmatch(text):
        return int(text)
    time, is_exact = _exact_time(text), True
    if time is None and not text.isdecimal():
        time, is_exact = read_time(text, datetime.now().astimezone()), False
    if time is not None and not is_exact:
        print(f"{text} = {time.isoformat(timespec=_precision(time))}", file=sys.stderr)
    return time


def _exact_time(text: str) -> datetime | None:
    """A time as RFC 3339 writes it, with its zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def _precision(time: datetime) -> str:
    return "milliseconds" if time.microsecond else "seconds"
