"""The audit, on Redis or Valkey.

audit     stream: who did what
refusals  stream: which calls were refused
"""

from __future__ import annotations

import time
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

    async def note_refusals(self, project: str, refusals: Iterable[bytes]) -> None:
        trim: tuple[str, ...] = ()
        if retention_ms := self._settings.audit_retention_ms:
            trim = ("MINID", "~", str(max(0, int(time.time() * 1000) - retention_ms)))
        commands = [("XADD", "refusals", *trim, "*", "x", refusal) for refusal in refusals]
        await self._client.commands(project, *commands)

    async def refusals(self, project: str, span: Range, count: int) -> list[Note]:
        return [as_note(row) for row in await self._client.read(project, "refusals", span, count)]

    async def audit(self, project: str, span: Range, count: int) -> list[Note]:
        return [as_note(row) for row in await self._client.read(project, "audit", span, count)]


def as_note(row: Any) -> Note:
    """A note, as the store returns it."""
    place, fields = row
    return Note(parse_sequence(place), dict(zip(fields[::2], fields[1::2], strict=True)))
