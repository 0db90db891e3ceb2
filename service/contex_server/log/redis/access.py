"""The records of access, on Redis or Valkey; of the project `ACCESS`.

access   hash: name of a record -> its content
changes  sorted set: name of a record -> the version with which it changed last
version  string: the version of the last change
used     hash: id of a key -> when it was used last, in unix milliseconds
"""

from __future__ import annotations

from collections.abc import Mapping

from contex_server.log.access import ACCESS, AccessStore, Changed, Write
from contex_server.log.redis.client import Facet

_KINDS = ("access", "changes", "version")


class RedisAccess(Facet, AccessStore):
    async def changed(self, since: int) -> Changed:
        reply = await self._client.call_read_only(ACCESS, "contex1_access_changed", _KINDS, since)
        names = (name.decode(errors="replace") for name in reply[1::2])
        values = (value or None for value in reply[2::2])
        return Changed(int(reply[0]), dict(zip(names, values, strict=True)))

    async def write(self, writes: Mapping[str, Write], note: bytes) -> int | None:
        rows = [text for name, write in writes.items() for text in (name, *write)]
        retention_ms = self._settings.audit_retention_ms
        kinds = (*_KINDS, "audit")
        reply = await self._client.call(
            ACCESS, "contex1_access_write", kinds, note, retention_ms, *rows
        )
        return None if reply is None else int(reply)

    async def note_uses(self, uses: Mapping[str, int]) -> None:
        rows = [text for use in uses.items() for text in use]
        await self._client.call(ACCESS, "contex1_access_used", ("used",), *rows)

    async def uses(self, key_ids: list[str]) -> list[int]:
        if not key_ids:
            return []
        replies = await self._client.command(ACCESS, "HMGET", "used", *key_ids)
        return [int(reply or 0) for reply in replies]
