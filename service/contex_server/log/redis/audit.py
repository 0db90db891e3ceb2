"""The audit, on Redis or Valkey.

audit  stream: who did what
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contex_server.kernel.model import Range
from contex_server.log.audit import AuditStore, Note
from contex_server.log.redis.client import Client, Facet, range_command
from contex_server.log.redis.key_names import parse_sequence


class RedisAudit(Facet, AuditStore):
    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        commands = [("XADD", "audit", "*", "x", action) for action in actions]
        await self._client.commands(project, *commands)

    async def audit(self, project: str, span: Range, count: int) -> list[Note]:
        return await read_notes(self._client, project, "audit", span, count)


async def read_notes(
    client: Client, project: str, kind: str, span: Range, count: int
) -> list[Note]:
    """The notes of a stream in a range."""
    rows = await client.command(project, *range_command(kind, span, count))
    return [as_note(row) for row in rows]


def as_note(row: Any) -> Note:
    """A note, as the store returns it."""
    place, fields = row
    return Note(parse_sequence(place), dict(zip(fields[::2], fields[1::2], strict=True)))
