"""The audit, on Redis or Valkey.

audit  stream: who did what
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contex_server.kernel.model import Sequence
from contex_server.log.audit import AuditStore, Note
from contex_server.log.redis.client import Client, Facet
from contex_server.log.redis.connections import Command
from contex_server.log.redis.key_names import key, parse_sequence


class RedisAudit(Facet, AuditStore):
    """`AuditStore` on Redis or Valkey."""

    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        name = key(project, "audit")
        commands: list[Command] = [("XADD", name, "*", "x", action) for action in actions]
        if commands:
            await self._client.commands(project, *commands)

    async def audit(
        self,
        project: str,
        after: Sequence,
        until: Sequence,
        count: int,
        *,
        backwards: bool = False,
    ) -> list[Note]:
        name = key(project, "audit")
        return await read_notes(self._client, project, name, after, until, count, backwards)


async def read_notes(
    client: Client,
    project: str,
    name: str,
    after: Sequence,
    until: Sequence,
    count: int,
    backwards: bool,
) -> list[Note]:
    """The notes of a stream in (after, until]."""
    start, end = f"({after}", str(until)
    if backwards:
        rows = await client.command(project, "XREVRANGE", name, end, start, "COUNT", count)
    else:
        rows = await client.command(project, "XRANGE", name, start, end, "COUNT", count)
    return [as_note(row) for row in rows]


def as_note(row: Any) -> Note:
    """A note, as the store returns it."""
    place, fields = row
    return Note(parse_sequence(place), dict(zip(fields[::2], fields[1::2], strict=True)))
