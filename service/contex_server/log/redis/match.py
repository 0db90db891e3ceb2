"""Encodings, the model that decides and its backgrounds, on Redis or Valkey.

vectors:<m>      hash: text digest -> encoding, under a model
matching         hash: "model" -> the one that decides
backgrounds:<m>  hash: sequence of its event -> background; "size" -> that of the largest
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from contex_server.kernel.model import SERVICE, Sequence
from contex_server.log.match import MatchStore
from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import (
    COUNTED,
    backgrounds_kind,
    parse_sequence,
    vectors_kind,
)

_SCAN_COUNT = 500
_DROPPED = 1_000
"""Encodings removed by one command."""
_SIZE = b"size"


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
            "contex2_change_model",
            (
                *(*COUNTED, "matching", vectors_kind(expected)),
                *(backgrounds_kind(expected), backgrounds_kind(model)),
            ),
            expected,
            model,
            event_type,
            body,
            str(SERVICE),
            self._settings.audit_retention_ms,
        )
        return None if reply is None else parse_sequence(reply)

    async def background(
        self, project: str, scoring_model: str, as_of: Sequence | None = None
    ) -> tuple[Sequence, bytes] | None:
        kind = backgrounds_kind(scoring_model)
        fields = await self._client.command(project, "HKEYS", kind)
        sequences = [parse_sequence(field) for field in fields if field != _SIZE]
        latest = max((s for s in sequences if as_of is None or s <= as_of), default=None)
        if latest is None:
            return None
        packed = await self._client.command(project, "HGET", kind, str(latest))
        return None if packed is None else (latest, packed)

    async def set_background(
        self,
        project: str,
        scoring_model: str,
        size: int,
        packed: bytes,
        event_type: str,
        body: bytes,
    ) -> Sequence | None:
        reply = await self._client.call(
            project,
            "contex1_set_background",
            (*COUNTED, "matching", backgrounds_kind(scoring_model)),
            scoring_model,
            size,
            packed,
            event_type,
            body,
            str(SERVICE),
            self._settings.audit_retention_ms,
        )
        return None if reply is None else parse_sequence(reply)

    async def backgrounds(self, project: str, scoring_model: str) -> dict[Sequence, bytes]:
        found: dict[Sequence, bytes] = {}
        async for chunk in self._client.scan(project, backgrounds_kind(scoring_model), _SCAN_COUNT):
            found.update({parse_sequence(f): packed for f, packed in chunk if f != _SIZE})
        return found

    async def put_backgrounds(
        self, project: str, scoring_model: str, backgrounds: Mapping[Sequence, bytes], size: int
    ) -> None:
        kind = backgrounds_kind(scoring_model)
        if backgrounds:
            present = int(await self._client.command(project, "HGET", kind, _SIZE) or 0)
            await self._client.commands(
                project,
                *(("HSETNX", kind, str(s), packed) for s, packed in backgrounds.items()),
                ("HSET", kind, _SIZE, max(size, present)),
            )

    async def drop_backgrounds(
        self, project: str, scoring_model: str, sequences: Iterable[Sequence]
    ) -> None:
        fields = [str(sequence) for sequence in sequences]
        if fields:
            await self._client.command(project, "HDEL", backgrounds_kind(scoring_model), *fields)
