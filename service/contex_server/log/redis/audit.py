"""The audit, on Redis or Valkey.

audit  stream: who did what
"""

from __future__ import annotations

from collections.abc import Iterable

from contex_server.kernel.model import Sequence
from contex_server.log.audit import AuditStore
from contex_server.log.notes import Note
from contex_server.log.redis.client import Client
from contex_server.log.redis.connections import Command
from contex_server.log.redis.key_names import key
from contex_server.log.redis.notes import read_notes


class RedisAudit(AuditStore):
    """`AuditStore` on Redis or Valkey."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        name = key(project, "audit")
        commands: list[Command] = [("XADD", name, "*", "x", action) for action in actions]
        if commands:
            await self._client.commands(project, *commands)

    async def audit(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Note]:
        name = key(project, "audit")
        return await read_notes(
            self._client, project, "XRANGE", name, f"({after}", str(until), count
        )

    async def audit_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Note]:
        name = key(project, "audit")
        return await read_notes(
            self._client, project, "XREVRANGE", name, str(until), f"({after}", count
        )
