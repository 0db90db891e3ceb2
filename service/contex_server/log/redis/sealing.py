"""The keys of subjects, on Redis or Valkey.

ctx:{b}:p:<project>:subjects   hash: keys and erasures, see functions/erase.lua
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.exceptions import ResponseError

from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import Sequence
from contex_server.log.redis.keys import counted_keys, key, parse_sequence, vectors_key
from contex_server.log.sealing import Erased

_TOGETHER = 1_000


class RedisSealing:
    """The part of `SealingLog` that is about sealing."""

    _audit_retention_ms: int

    async def _command(self, project: str, *command: Any) -> Any:
        raise NotImplementedError

    async def subject_key(
        self, project: str, subject: str, key_id: bytes, wrapped: bytes
    ) -> tuple[bytes, bytes]:
        """See `SealingLog.subject_key`."""
        found = await self._command(
            project,
            "FCALL",
            "contex1_subject_key",
            1,
            key(project, "subjects"),
            subject,
            key_id,
            wrapped,
        )
        return found[0], found[1]

    async def key_of_subject(self, project: str, subject: str) -> bytes:
        """See `SealingLog.key_of_subject`."""
        found: bytes | None = await self._command(
            project, "HGET", key(project, "subjects"), f"s:{subject}"
        )
        return found or b""

    async def wrapped_keys(self, project: str, key_ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """See `SealingLog.wrapped_keys`."""
        wanted = list(key_ids)
        fields = [b"k:" + key_id for key_id in wanted]
        found = await self._command(project, "HMGET", key(project, "subjects"), *fields)
        return {k: value for k, value in zip(wanted, found, strict=True) if value is not None}

    async def restore_key(self, project: str, subject: str, key_id: bytes, stored: bytes) -> None:
        """See `SealingLog.restore_key`."""
        name = key(project, "subjects")
        await self._command(project, "HSETNX", name, b"k:" + key_id, stored)
        if subject:
            await self._command(project, "HSETNX", name, f"s:{subject}", key_id)

    async def erasure(self, project: str, request_id: str) -> tuple[Sequence, int] | None:
        """See `SealingLog.erasure`."""
        found = await self._command(project, "HGET", key(project, "subjects"), f"r:{request_id}")
        if found is None:
            return None
        sequence, count = found.split(b" ")
        return parse_sequence(sequence), int(count)

    async def erase(self, project: str, erased: Erased) -> Sequence:
        """See `SealingLog.erase`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_erase",
            7,
            *counted_keys(project),
            key(project, "state"),
            key(project, "subjects"),
            erased.request_id,
            erased.subject,
            erased.key_id,
            erased.tombstone,
            erased.events,
            erased.event_type,
            erased.body,
            erased.action,
            self._audit_retention_ms,
            *(item for name, at in erased.latest.items() for item in (name, str(at))),
        )
        return parse_sequence(reply)

    async def drop_vectors(self, project: str, model: str, digests: Iterable[bytes]) -> None:
        """See `SealingLog.drop_vectors`."""
        wanted = list(digests)
        for start in range(0, len(wanted), _TOGETHER):
            some = wanted[start : start + _TOGETHER]
            await self._command(project, "HDEL", vectors_key(project, model), *some)

    async def forget_on_disk(self, project: str) -> bool:
        """See `SealingLog.forget_on_disk`."""
        try:
            await self._command(project, "BGREWRITEAOF")
        except (ResponseError, ContexError):
            return False
        return True
