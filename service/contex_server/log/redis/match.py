"""Encodings and the model that decides, on Redis or Valkey.

vectors:<m>  hash: text digest -> encoding, under a model
matching     hash: "model" -> the one that decides
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from contex_server.kernel.model import SERVICE, Sequence
from contex_server.log.match import MatchStore
from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import COUNTED, parse_sequence, vectors_kind

_SCAN_COUNT = 500
_DROPPED = 1_000
"""Encodings removed by one command."""


class RedisMatch(Facet, MatchStore):
    async def vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> dict[bytes, bytes]:
        keys = list(digests)
        if not keys:
            return {}
        values = await self._client.command(project, "HMGET", vectors_kind(model), *keys)
        return {d: v for d, v in zip(keys, values, strict=True) if v is not None}

    async def missing_vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> set[bytes]:
        keys, kind = list(digests), vectors_kind(model)
        replies = await self._client.commands(project, *(("HEXISTS", kind, d) for d in keys))
        return {d for d, exists in zip(keys, replies, strict=True) if not exists}

    async def put_vectors(self, project: str, model: str, vectors: Mapping[bytes, bytes]) -> None:
        kind = vectors_kind(model)
        if vectors:
            await self._client.commands(
                project,
                ("HSETNX", "matching", "model", model),
                *(("HSETNX", kind, d, v) for d, v in vectors.items()),
            )

    async def drop_vectors(self, project: str, model: str, digests: Iterable[bytes]) -> None:
        keys = list(digests)
        for start in range(0, len(keys), _DROPPED):
            chunk = keys[start : start + _DROPPED]
            await self._client.command(project, "HDEL", vectors_kind(model), *chunk)

    async def all_vectors(self, project: str, model: str) -> AsyncIterator[dict[bytes, bytes]]:
        async for chunk in self._client.scan(project, vectors_kind(model), _SCAN_COUNT):
            yield dict(chunk)

    async def model(self, project: str) -> str:
        stored = await self._client.command(project, "HGET", "matching", "model")
        return "" if stored is None else str(stored.decode())

    async def change_model(
        self, project: str, expected: str, model: str, event_type: str, body: bytes
    ) -> Sequence | None:
        reply = await self._client.call(
            project,
            "contex1_change_model",
            (*COUNTED, "matching", vectors_kind(expected)),
            expected,
            model,
            event_type,
            body,
            str(SERVICE),
            self._settings.audit_retention_ms,
        )
        return None if reply is None else parse_sequence(reply)
