"""The keys of subjects, on Redis or Valkey.

subjects  hash: keys and erasures, see functions/keys.lua
"""

from __future__ import annotations

from collections.abc import Iterable

from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import Sequence
from contex_server.log.keys import Erased, KeyStore
from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import COUNTED, parse_sequence


class RedisKeys(Facet, KeyStore):
    async def subject_key(
        self, project: str, subject: str, key_id: bytes, wrapped: bytes
    ) -> tuple[bytes, bytes]:
        reply = await self._client.call(
            project, "contex1_subject_key", ("subjects",), subject, key_id, wrapped
        )
        return reply[0], reply[1]

    async def key_of_subject(self, project: str, subject: str) -> bytes:
        key_id: bytes | None = await self._client.command(
            project, "HGET", "subjects", f"s:{subject}"
        )
        return key_id or b""

    async def wrapped_keys(self, project: str, key_ids: Iterable[bytes]) -> dict[bytes, bytes]:
        ids = list(key_ids)
        fields = [b"k:" + key_id for key_id in ids]
        values = await self._client.command(project, "HMGET", "subjects", *fields)
        return {k: value for k, value in zip(ids, values, strict=True) if value is not None}

    async def restore_key(self, project: str, subject: str, key_id: bytes, stored: bytes) -> None:
        await self._client.command(project, "HSETNX", "subjects", b"k:" + key_id, stored)
        if subject:
            await self._client.command(project, "HSETNX", "subjects", f"s:{subject}", key_id)

    async def erasure(self, project: str, request_id: str) -> tuple[Sequence, int] | None:
        answer = await self._client.command(project, "HGET", "subjects", f"r:{request_id}")
        if answer is None:
            return None
        sequence, count = answer.split(b" ")
        return parse_sequence(sequence), int(count)

    async def erase(self, project: str, erased: Erased) -> Sequence:
        reply = await self._client.call(
            project,
            "contex1_erase",
            (*COUNTED, "state", "subjects"),
            erased.request_id,
            erased.subject,
            erased.key_id,
            erased.tombstone,
            erased.events,
            erased.event_type,
            erased.body,
            erased.action,
            self._settings.audit_retention_ms,
            *(item for name, at in erased.latest.items() for item in (name, str(at))),
        )
        return parse_sequence(reply)

    async def rewrite_files(self, project: str) -> bool:
        try:
            await self._client.run(project, ("BGREWRITEAOF",))
        except ContexError:
            return False
        return True
