"""The audit, on Redis or Valkey.

audit  stream: who did what
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contex_server.kernel.model import Range
from contex_server.log.audit import AuditStore, Note
from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import parse_sequence


class RedisAudit(Facet, AuditStore):
    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        commands = [("XADD", "audit", "*", "x", action) for action in actions]
        await self._client.commands(project, *commands)

    async def audit(self, project: str, span: Range, count: int) -> list[Note]:
        return [as_note(row) for row in await self._client.read(project, "audit", span, count)]


def as_note(row: Any) -> Note:
    """A note, as the store returns it."""
    place, fields = row
    return Note(parse_sequence(place), dict(zip(fields[::2], fields[1::2], strict=True)))
