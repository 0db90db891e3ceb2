"""Places in a project's log and moments of its time, as callers give them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TypeAlias

from google.protobuf import timestamp_pb2

from .v1 import event_pb2

At: TypeAlias = str | int | datetime
"""A sequence `"{ms}-{n}"`; a time as RFC 3339 text with a zone, as a `datetime` with one, or in
unix milliseconds."""

_SEQUENCE = re.compile(r"[0-9]+(-[0-9]+)?")


def position(at: At | None) -> event_pb2.Position | None:
    """A position; None where none is given.

    Raises:
        ValueError: A time has no zone, or the text is neither a sequence nor a time.
    """
    if at is None:
        return None
    if isinstance(at, int):
        return event_pb2.Position(unix_ms=at)
    if isinstance(at, datetime):
        return event_pb2.Position(time=timestamp(at))
    if _SEQUENCE.fullmatch(at) or not ("T" in at or " " in at):
        return event_pb2.Position(sequence=at)  # what is no sequence the server refuses
    return event_pb2.Position(time=timestamp(datetime.fromisoformat(at)))


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    """A time that has a zone.

    Raises:
        ValueError: It has none.
    """
    if time.tzinfo is None or time.utcoffset() is None:
        # protobuf would take it for UTC, its writer most likely meant local time.
        raise ValueError(f"a datetime needs a time zone: {time!r}")
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def instant(message: timestamp_pb2.Timestamp) -> datetime:
    """A time in UTC."""
    return message.ToDatetime(tzinfo=UTC)
