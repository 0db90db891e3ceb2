"""Places in a log as people type them."""

from __future__ import annotations

import re
from datetime import datetime

import typer

_SEQUENCE = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")


def parse_position(text: str | None, option: str) -> str | datetime | None:
    """Reads a sequence (kept as text) or an RFC 3339 time.

    Raises:
        typer.BadParameter: It is neither, or the time has no zone.
    """
    if text is None or _SEQUENCE.fullmatch(text):
        return text
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a sequence (1764000000000-0) "
            "nor an RFC 3339 time (2026-01-31T15:30:00Z)",
            param_hint=option,
        ) from None
    if time.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} has no time zone; append Z or an offset such as +02:00", param_hint=option
        )
    return time
