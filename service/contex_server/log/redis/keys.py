"""The keys of subjects and projects, on Redis or Valkey.

    subjects    hash: keys and erasures, see functions/keys.lua
    encryption  string: there if events are sealed that name no subject

and, once for the whole store:

    ctx:{0}:encryption  a number that grows when any project's encryption changes
    ctx:{0}:masters     sorted set: which process wraps with which master key, until when that holds
    ctx:{0}:rotated     string: the master key that wraps all keys there are
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import Sequence
from contex_server.log.buckets import BUCKETS
from contex_server.log.keys import Erased, KeyStore
from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import COUNTED, parse_sequence

_VERSION = "ctx:{0}:encryption"
_MASTERS = "ctx:{0}:masters"
_ROTATED = "ctx:{0}:rotated"
_SUBJECTS = "ctx:{*}:p:*:subjects"
_SUBJECTS_OF = re.compile(r"ctx:\{\d+\}:p:(.*):subjects")
_SCANNED = 1_000
"""Keys of the store that are looked at in one call."""


class RedisKeys(Facet, KeyStore):
    async def subject_key(
        self, project: str, subject: str, key_id: bytes, wrapped: bytes
    ) -> tuple[bytes, bytes]:
        reply = await self._client.call(
            project, "contex1_subject_key", ("subjects",), subject, key_id, wrapped
        )
        return reply[0], reply[1]

    async def project_key(
        self,
        project: str,
        key_id: bytes,
        wrapped: bytes,
        events: int,
        most_events: int,
        most_ms: int,
    ) -> tuple[bytes, bytes]:
        arguments = (key_id, wrapped, events, most_events, most_ms)
        reply = await self._client.call(project, "contex1_project_key", ("subjects",), *arguments)
        return reply[0], reply[1]

    async def is_encrypted(self, project: str) -> bool:
        return bool(await self._client.command(project, "EXISTS", "encryption"))

    async def put_encrypted(self, project: str, *, enabled: bool, action: bytes) -> None:
        await self._client.call(
            project,
            "contex1_put_encryption",
            ("encryption", "audit"),
            "1" if enabled else "",
            action,
            self._settings.audit_retention_ms,
        )

    async def encryption_version(self) -> int:
        (version,) = await self._client.run_in(0, ("GET", _VERSION))
        return int(version or 0)

    async def tell_encryption_changed(self) -> None:
        await self._client.run_in(0, ("INCR", _VERSION))

    async def all_wrapped_keys(self, count: int) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
        for buckets in self._client.buckets(BUCKETS):
            cursor: Any = 0
            while True:
                scan = ("SCAN", cursor, "MATCH", _SUBJECTS, "COUNT", _SCANNED)
                ((cursor, names),) = await self._client.run_in(buckets[0], scan)
                for name in names:
                    if match := _SUBJECTS_OF.fullmatch(name.decode()):
                        found = match[1]
                        async for keys in self.wrapped_keys_of(found, count):
                            yield found, keys
                if int(cursor) == 0:
                    break

    async def wrapped_keys_of(self, project: str, count: int) -> AsyncIterator[dict[bytes, bytes]]:
        async for chunk in self._client.scan(project, "subjects", count):
            if keys := {name[2:]: stored for name, stored in chunk if name[:2] == b"k:"}:
                yield keys

    async def rewrap(self, project: str, keys: Mapping[bytes, tuple[bytes, bytes]]) -> int:
        arguments = [item for key_id, (old, new) in keys.items() for item in (key_id, old, new)]
        count: int = await self._client.call(project, "contex1_rewrap", ("subjects",), *arguments)
        return count

    async def use_master(self, master_id: bytes, process: str, ms: int) -> tuple[bool, set[bytes]]:
        names = (_MASTERS, _ROTATED)
        call = ("FCALL", "contex1_use_master", 2, *names, master_id.hex(), process, ms)
        ((rotated, *ids),) = await self._client.run_in(0, call)
        return bool(rotated), {bytes.fromhex(each.decode()) for each in ids}

    async def note_rotated(self, master_id: bytes) -> None:
        await self._client.run_in(0, ("SET", _ROTATED, master_id.hex()))

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
