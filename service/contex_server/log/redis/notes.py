"""Streams of records, on Redis or Valkey."""

from __future__ import annotations

from typing import Any

from contex_server.log.notes import Note
from contex_server.log.redis.client import Client
from contex_server.log.redis.key_names import parse_sequence


async def read_notes(
    client: Client, project: str, command: str, name: str, start: str, end: str, count: int
) -> list[Note]:
    """The notes of a stream in a range, by XRANGE or XREVRANGE."""
    rows = await client.command(project, command, name, start, end, "COUNT", count)
    return [as_note(row) for row in rows]


def as_note(row: Any) -> Note:
    """A note, as the store returns it."""
    place, fields = row
    return Note(parse_sequence(place), dict(zip(fields[::2], fields[1::2], strict=True)))
