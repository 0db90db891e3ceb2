"""Moments for people: which event an answer is as of, and which instant was meant."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from contex_server.cli.records import rfc3339

if TYPE_CHECKING:
    from contex import Moment

_BEFORE_THE_FIRST = "0-0"


def moment_text(moment: Moment) -> str:
    """The instant and the newest event that counts."""
    event = "before the first event" if moment.sequence == _BEFORE_THE_FIRST else moment.sequence
    return f"{instant_text(moment.time)}, {event}"


def instant_text(time: datetime) -> str:
    """UTC, and the local time where it is another."""
    local = time.astimezone()
    if not local.utcoffset():
        return rfc3339(time)
    return f"{rfc3339(time)} ({local:%Y-%m-%d %H:%M:%S %z})"
